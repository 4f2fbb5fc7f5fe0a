/**
 * Ollama's errors in our words: what status and code a client gets, and which field is at fault (openai-api.md §1.5 and
 * §3, ollama-api.md §2.5–2.8). Messages are our own; what Ollama wrote goes into the cause, for the log.
 */
import { ApiError } from '../errors.ts'
import { readUpstreamError, toLogText } from './error-text.ts'
import {
  contextExceeded,
  type FaultContext,
  failed,
  faultByText,
  isOverflow,
  type Known,
  modelNotFound,
  otherBadRequest,
  outOfMemory,
  shown,
  upstream,
} from './fault-rules.ts'

/** Ollama names no time; a slot or a load takes about as long. */
const RETRY_AFTER_S = '2'

const overloaded = (cause: string) =>
  new ApiError('overloaded', 'The model server is busy. Please try again in a moment.', {
    headers: { 'retry-after': RETRY_AFTER_S },
    cause,
  })

/**
 * The answer to a client when Ollama refuses a request before its first line. `bodyText` as it came, empty or of any
 * kind. Statuses decide where they can, texts only where Ollama's status misleads.
 */
export const toApiError = (status: number, bodyText: string, context: FaultContext): ApiError => {
  const error = readUpstreamError(bodyText)
  const cause = `Ollama answered ${status}: ${toLogText(bodyText)}`
  const known: Known = { error, context, promptParam: context.promptParam ?? 'messages', cause }
  if (isOverflow(error)) return contextExceeded(known)
  switch (status) {
    case 401:
      return upstream('The model server is not allowed to run this model.', cause)
    case 403:
      if (/cloud is disabled/i.test(error.message))
        return new ApiError(
          'model_not_allowed',
          `The model '${shown(context.model)}' is not available on this server.`,
          {
            param: 'model',
            cause,
          },
        )
      return upstream('The model server refused this proxy.', cause)
    case 404:
      // Plain text is an unknown route: not Ollama, or one too old.
      return error.isJson && !error.isNested ? modelNotFound(known) : failed(cause)
    // 429 is a cloud or a remote runner; to this client it is no limit of its own.
    case 429:
    case 503:
      return overloaded(cause)
  }
  return faultByText(known) ?? (status === 400 ? otherBadRequest(known) : failed(cause))
}

/** The error that ends an answer when Ollama writes an error line into it; `errorText` is that line's `error`. */
export const toStreamFault = (errorText: string): ApiError => {
  const error = readUpstreamError(JSON.stringify({ error: errorText }))
  const cause = `Ollama broke off: ${toLogText(errorText)}`
  const context = { model: '', usesImages: false }
  const known: Known = { error, context, promptParam: 'messages', cause }
  if (isOverflow(error)) return contextExceeded(known)
  if (/tool call/i.test(error.message))
    return upstream('The model wrote a tool call that could not be read. Please try again.', cause)
  return outOfMemory(known) ?? upstream('The model server failed in the middle of the answer.', cause)
}
