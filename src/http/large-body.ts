/**
 * Large chat requests, read and translated off the event loop. It is bytes that hold up the streams, not messages:
 * parsing and rebuilding 32 MB takes 150 ms and more. So a body past `LARGE_BYTES` goes, chunk by chunk as it comes, to
 * whoever the platform names; what comes back is everything but the messages, which stay there as JSON, to be
 * fetched in slices while they are sent to Ollama.
 */
import type { PromptFeatures } from '../limits/estimate.ts'
import type { PreparedChat } from '../wire/chat-request.ts'

export const LARGE_BYTES = 256 * 1024

/** Of a translated request all that is small; its `request` lacks the messages. */
export type ChatOutline = {
  prepared: PreparedChat
  features: PromptFeatures
  /** The beginning of the last user message, for a preview. */
  lastPrompt: string
}

/** One body on its way; whoever began it ends it or drops it. */
export interface LargeBody {
  /** The next bytes, which are given away: the array is empty afterwards. */
  add(chunk: Uint8Array): void
  /**
   * That was all: the translated request, or the bytes again where it must be translated here (images by URL are put
   * into the messages here). @throws ApiError 400 for what is wrong with it; it is dropped then.
   */
  end(): Promise<ChatOutline | Uint8Array>
  /** The messages as JSON, in slices. Each call begins anew, as each run of `n` sends them again. */
  messages(): ReadableStream<Uint8Array>
  /** It is not needed any more. Again does nothing. */
  drop(): void
}

/** The platform's; undefined where it has no threads, and large bodies are translated in place. */
export type BeginLargeBody = (() => LargeBody) | undefined

/** A large request that was translated elsewhere. */
export type LargeChat = { outline: ChatOutline; body: LargeBody }
