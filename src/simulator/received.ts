/** What arrives at a simulated Ollama, kept so that a test can ask what was sent and what became of it. */
import type { Exchange, HttpRequest } from './exchange.ts'
import type { Ended, LogEntry } from './journal.ts'
import { isList, isObject, type Json, parseJson } from './json.ts'

/** One request as it arrived, and what became of it. */
export type Received = {
  method: string
  path: string
  query: URLSearchParams
  /** Names in lower case. */
  headers: Record<string, string>
  bytes: Uint8Array
  text: string
  /** The parsed body; undefined when it was not JSON. */
  json: unknown
  /** The same when it was an object, else `{}`. */
  body: Json
  /** Epoch milliseconds of arrival. */
  at: number
  /** The log's entry, for requests that generate or embed. */
  log: LogEntry | undefined
  /** Lines, tokens and bytes (headers included) the kernel has taken so far. */
  delivered: () => { lines: number; tokens: number; bytes: number }
  /** The client left before the end of the answer. */
  cancelled: () => boolean
  /** Resolves when the answer is over (`done`, `fault:…`) or the client has left before that (`hung up`). */
  closed: Promise<Ended>
}

export const generatingPaths = new Set(['/api/chat', '/api/generate'])

/** A request that only loads or unloads a model: no messages, no prompt. */
export const isLoadOnly = (path: string, body: Json) => {
  const { messages, prompt } = body
  return path === '/api/chat'
    ? !isList(messages) || messages.length === 0
    : prompt === undefined || prompt === ''
}

/** `num_predict` when it limits: 0 and negative numbers do not. */
export const limitOf = (body: Json): number | undefined => {
  const options = isObject(body['options']) ? body['options'] : {}
  const limit = options['num_predict']
  return typeof limit === 'number' && Math.trunc(limit) > 0 ? Math.trunc(limit) : undefined
}

/** The stop strings asked for. */
export const stopsOf = (body: Json): string[] => {
  const options = isObject(body['options']) ? body['options'] : {}
  const stop = options['stop']
  return isList(stop) ? stop.filter(one => typeof one === 'string' && one !== '').map(String) : []
}

/** Asks for an answer: the requests that scripts answer and the log counts. */
export const isGenerating = ({ method, path, body }: Pick<Received, 'method' | 'path' | 'body'>) =>
  method === 'POST' && generatingPaths.has(path) && !isLoadOnly(path, body)

/** Takes down a request; `closed` and `cancelled` follow its answer. */
export const receive = (request: HttpRequest, exchange: Exchange, atMs: number): Received => {
  let text: string | undefined
  let cancelled = false
  const decode = () => {
    text ??= Buffer.from(request.bytes.buffer, request.bytes.byteOffset, request.bytes.byteLength).toString()
    return text
  }
  const parsed = request.bytes.length === 0 ? undefined : parseJson(decode())
  const closed = Promise.withResolvers<Ended>()
  const received: Received = {
    ...request,
    get text() {
      return decode()
    },
    json: parsed,
    body: isObject(parsed) ? parsed : {},
    at: atMs,
    log: undefined,
    delivered: () => ({
      lines: exchange.deliveredTokens,
      tokens: exchange.deliveredTokens,
      bytes: exchange.deliveredBytes,
    }),
    cancelled: () => cancelled,
    closed: closed.promise,
  }
  // Registered before the log's own listener, so it waits a microtask for the log to know how it ended.
  exchange.onOver(left => {
    cancelled = left
    queueMicrotask(() => closed.resolve(left ? 'hung up' : (received.log?.ended ?? 'done')))
  })
  return received
}
