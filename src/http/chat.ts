/** `POST /v1/chat/completions`, and its upload form. */
import type { MiddlewareHandler } from 'hono'
import { ApiError, invalid } from '../errors.ts'
import type { ModelFacts } from '../upstream/ollama.ts'
import { createChatAnswer, createChatStream } from '../wire/chat-answer.ts'
import { type PreparedChat, toFitModel, toOllamaChat } from '../wire/chat-request.ts'
import type { OllamaChatRequest } from '../wire/ollama.ts'
import { parseChatRequest } from '../wire/openai.ts'
import { readChat } from '../wire/read-chat.ts'
import type { Writer } from '../wire/writer.ts'
import { parseJson, readBytes } from './body.ts'
import type { AppEnv } from './env.ts'
import type { ImageLoader, RequestImages } from './images.ts'
import type { LargeChat } from './large-body.ts'
import { type AnswerIdentity, type Order, toChoices } from './order.ts'

/** A class, not closures: it is made for each request, also for those that are refused. */
class ChatOrder implements Order {
  readonly kind = 'chat'
  readonly path = '/api/chat'
  readonly model: string
  readonly requests: OllamaChatRequest[]
  readonly maxTokens: number | null
  readonly stream: boolean
  readonly ignored: readonly string[]
  readonly images: RequestImages
  readonly needs: boolean
  readonly large: LargeChat | undefined
  readonly #prepared: PreparedChat
  readonly #newToolCallId: () => string

  constructor(prepared: PreparedChat, newToolCallId: () => string, large?: LargeChat) {
    const { uses } = prepared
    this.model = prepared.model
    this.requests = toChoices(prepared.request, prepared.choices)
    this.maxTokens = prepared.maxTokens
    this.stream = prepared.stream
    this.ignored = prepared.ignored
    this.images = { refs: prepared.images, inline: prepared.inlineImages }
    this.needs = uses.tools || uses.images || prepared.thinkField !== null
    this.large = large
    this.#prepared = prepared
    this.#newToolCallId = newToolCallId
  }

  fit(facts: ModelFacts): ChatOrder {
    return new ChatOrder(toFitModel(this.#prepared, facts), this.#newToolCallId, this.large)
  }

  createWriter(identity: AnswerIdentity): Writer {
    const prepared = this.#prepared
    const head = {
      ...identity,
      choices: prepared.choices,
      includeUsage: prepared.includeUsage,
      logprobs: prepared.request.logprobs === true,
      legacyFunctions: prepared.legacyFunctions,
      firstToolCallOnly: prepared.firstToolCallOnly,
      customTools: prepared.customTools,
      serviceTier: prepared.serviceTier,
      newToolCallId: this.#newToolCallId,
    }
    return prepared.stream ? createChatStream(head) : createChatAnswer(head)
  }

  get lastPrompt(): string {
    if (this.large !== undefined) return this.large.outline.lastPrompt
    return this.#prepared.request.messages.findLast(({ role }) => role === 'user')?.content ?? ''
  }
}

/** Orders for chats, by where their body was read. */
export const createChatOrders = (newToolCallId: () => string) => ({
  /** @throws ApiError 400 */
  fromJson: (json: unknown): Order => new ChatOrder(readChat(json), newToolCallId),
  fromPrepared: (prepared: PreparedChat): Order => new ChatOrder(prepared, newToolCallId),
  fromLarge: (large: LargeChat): Order => new ChatOrder(large.outline.prepared, newToolCallId, large),
})

// ---- upload

const fieldText = (form: FormData, name: string): string | undefined => {
  const value = form.get(name)
  if (value === null || value === '') return undefined
  if (typeof value !== 'string')
    throw invalid(name, `Invalid type for '${name}': expected text, got a file.`, 'invalid_type')
  return value
}

const fieldNumber = (form: FormData, name: string): number | undefined => {
  const text = fieldText(form, name)
  if (text === undefined) return undefined
  const value = Number(text)
  if (Number.isNaN(value))
    throw invalid(name, `Invalid type for '${name}': expected a number.`, 'invalid_type')
  return value
}

const fieldFlag = (form: FormData, name: string): boolean | undefined => {
  const text = fieldText(form, name)?.toLowerCase()
  if (text === undefined) return undefined
  if (['true', '1'].includes(text)) return true
  if (['false', '0'].includes(text)) return false
  throw invalid(name, `Invalid type for '${name}': expected true or false.`, 'invalid_type')
}

const fieldMessages = (form: FormData): unknown => {
  const text = fieldText(form, 'messages')
  if (text === undefined) return undefined
  try {
    return parseJson(new TextEncoder().encode(text))
  } catch (cause) {
    throw new ApiError('invalid_request', "Invalid value for 'messages': expected a JSON array as text.", {
      param: 'messages',
      code: 'invalid_value',
      cause,
    })
  }
}

const readForm = async (request: Request, bytesMax: number): Promise<FormData> => {
  const type = request.headers.get('content-type') ?? ''
  if (!/^multipart\/form-data\b/i.test(type)) {
    throw new ApiError('unsupported_media_type', 'This endpoint takes `multipart/form-data`.')
  }
  const bytes = await readBytes(request, bytesMax)
  try {
    return (await new Response(bytes as Uint8Array<ArrayBuffer>, {
      headers: { 'content-type': type },
    }).formData()) as FormData
  } catch (cause) {
    throw new ApiError('invalid_request', 'The multipart body could not be read; it may be cut short.', {
      cause,
    })
  }
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** The last user message with the images as parts behind its text. */
const withImages = (messages: unknown[], urls: string[]): unknown[] => {
  const last = messages.findLastIndex(message => isRecord(message) && message['role'] === 'user')
  if (last === -1)
    throw invalid('messages', "Invalid value for 'messages': files need a user message to be put into.")
  return messages.map((message, index) => {
    if (index !== last || !isRecord(message)) return message
    const { content } = message
    const parts = Array.isArray(content)
      ? content
      : typeof content === 'string' && content !== ''
        ? [{ type: 'text', text: content }]
        : []
    return {
      ...message,
      content: [...parts, ...urls.map(url => ({ type: 'image_url', image_url: { url } }))],
    }
  })
}

/**
 * `multipart/form-data` → the same body as JSON would be: `model`, `messages` (JSON as text), `stream`, `temperature`,
 * `max_tokens`, and any number of `files`, put into the last user message.
 */
export const uploadBody = (
  toOrder: (prepared: PreparedChat) => Order,
  images: ImageLoader,
  bytesMax: number,
): MiddlewareHandler<AppEnv> =>
  async function readUpload(c, next) {
    const form = await readForm(c.req.raw, bytesMax)
    const files = form.getAll('files')
    const urls: string[] = []
    for (const [index, file] of files.entries()) {
      const param = `files[${index}]`
      if (typeof file === 'string')
        throw invalid(param, `Invalid type for '${param}': expected a file, got text.`, 'invalid_type')
      const bytes = new Uint8Array(await (file as Blob).arrayBuffer())
      if (bytes.length === 0)
        throw invalid(param, `Invalid value for '${param}': the file is empty.`, 'empty_image_file')
      urls.push(`data:;base64,${await images.toBase64(bytes, param)}`)
    }
    const fields = {
      model: fieldText(form, 'model'),
      messages: fieldMessages(form),
      stream: fieldFlag(form, 'stream'),
      temperature: fieldNumber(form, 'temperature'),
      max_tokens: fieldNumber(form, 'max_tokens'),
    }
    const body = parseChatRequest(
      Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)),
    )
    const chat = urls.length > 0 ? { ...body, messages: withImages(body.messages, urls) } : body
    c.set('order', toOrder(toOllamaChat(chat)))
    await next()
  }
