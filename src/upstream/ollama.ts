/** One Ollama over HTTP. Its address comes from the settings only and never reaches a client. */
import { ApiError } from '../errors.ts'
import type { OllamaPath } from '../wire/ollama.ts'

/** What a model can do, from /api/show; undefined where this Ollama does not say. */
export type ModelFacts = {
  capabilities: string[] | undefined
  /** Tokens of prompt and answer together that the model runs with, as far as it is known. */
  contextLength: number | undefined
}

/** One installed model, as /api/tags lists it. */
export type InstalledModel = { name: string; modifiedAtMs: number }

/** Ollama's answer to a generating request, its status known. */
export type Answer =
  | { ok: true; body: ReadableStream<Uint8Array> }
  | { ok: false; status: number; text: string }

export interface Upstream {
  /**
   * Sends a generating request. Ollama sends headers with its first line, so this waits for queueing, model load and
   * prompt too. @throws ApiError `upstream` when Ollama can't be reached or breaks off, or the signal's reason.
   */
  generate(path: OllamaPath, body: string | ReadableStream<Uint8Array>, signal: AbortSignal): Promise<Answer>
  /** @throws ApiError `upstream` */
  models(): Promise<InstalledModel[]>
  /** Cached; undefined when Ollama doesn't know the model or can't be asked now: the request itself decides then. */
  describe(model: string): Promise<ModelFacts | undefined>
  /** The version, or undefined when Ollama can't be reached. */
  version(): Promise<string | undefined>
}

export type UpstreamDeps = {
  baseUrl: string
  /** The platform's fetch without a timeout of its own, without following redirects, decompressing nothing. */
  fetch: (url: string, init: RequestInit) => Promise<Response>
  now: () => number
}

const ERROR_TEXT_MAX = 64 * 1024
const FACTS_TTL_MS = 60_000
const UNKNOWN_TTL_MS = 2000
const FACTS_MAX = 1000
const PROBE_TIMEOUT_MS = 3000
const CATALOGUE_TIMEOUT_MS = 10_000

const unreachable = (cause: unknown) =>
  new ApiError('upstream', 'The model server could not be reached. Please try again later.', { cause })

/** At most `max` bytes of a body as text: an error page of a gigabyte must not fill memory. */
const boundedText = async (response: Response, max: number): Promise<string> => {
  const reader = response.body?.getReader() as ReadableStreamDefaultReader<Uint8Array> | undefined
  if (reader === undefined) return ''
  const decoder = new TextDecoder()
  let text = ''
  let bytes = 0
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return text + decoder.decode()
    bytes += value.length
    text += decoder.decode(value, { stream: true })
    if (bytes > max) {
      await reader.cancel()
      return text
    }
  }
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null

const numCtxOf = (parameters: unknown): number | undefined => {
  const found = typeof parameters === 'string' ? /^num_ctx\s+(\d+)/m.exec(parameters)?.[1] : undefined
  return found === undefined ? undefined : Number(found)
}

const trainedContext = (info: unknown): number | undefined => {
  if (!isRecord(info)) return undefined
  const length = info[`${info['general.architecture']}.context_length`]
  return typeof length === 'number' ? length : undefined
}

const toFacts = (shown: unknown, runningContext: number | undefined): ModelFacts => {
  const record = isRecord(shown) ? shown : {}
  const listed = record['capabilities']
  const capabilities = Array.isArray(listed) ? listed.filter(word => typeof word === 'string') : []
  return {
    capabilities: capabilities.length > 0 ? capabilities : undefined,
    contextLength: runningContext ?? numCtxOf(record['parameters']) ?? trainedContext(record['model_info']),
  }
}

export const createUpstream = ({ baseUrl, fetch, now }: UpstreamDeps): Upstream => {
  const facts = new Map<string, { value: Promise<ModelFacts | undefined>; untilMs: number }>()
  const json = { 'content-type': 'application/json', 'accept-encoding': 'identity' }

  const post = async (
    path: string,
    body: string | ReadableStream<Uint8Array>,
    signal: AbortSignal,
  ): Promise<Response> => {
    try {
      // A body that streams can't be sent again, so it must not meet a kept connection that Ollama has just closed.
      const keepalive = typeof body === 'string'
      return await fetch(baseUrl + path, {
        method: 'POST',
        headers: json,
        body,
        signal,
        redirect: 'manual',
        keepalive,
      })
    } catch (cause) {
      if (signal.aborted) throw signal.reason
      throw unreachable(cause)
    }
  }

  const refusalOf = async (response: Response) => {
    const text = await boundedText(response, ERROR_TEXT_MAX).catch(() => '')
    return { ok: false as const, status: response.status, text }
  }

  const get = async (path: string, timeoutMs: number): Promise<unknown> => {
    try {
      const signal = AbortSignal.timeout(timeoutMs)
      const response = await fetch(baseUrl + path, {
        headers: { 'accept-encoding': 'identity' },
        signal,
        redirect: 'manual',
      })
      if (!response.ok) throw new Error(`status ${response.status}`)
      return await response.json()
    } catch (cause) {
      throw unreachable(cause)
    }
  }

  /** The window a loaded model really runs with; only /api/ps knows it. */
  const runningContext = async (model: string): Promise<number | undefined> => {
    const answer = await get('/api/ps', PROBE_TIMEOUT_MS)
    const loaded = isRecord(answer) && Array.isArray(answer['models']) ? answer['models'] : []
    const entry = loaded.find(
      candidate =>
        isRecord(candidate) && [model, `${model}:latest`].includes(String(candidate['name']).toLowerCase()),
    )
    const length = isRecord(entry) ? entry['context_length'] : undefined
    return typeof length === 'number' && length > 0 ? length : undefined
  }

  const lookUp = async (model: string): Promise<ModelFacts | undefined> => {
    try {
      const response = await post(
        '/api/show',
        JSON.stringify({ model }),
        AbortSignal.timeout(CATALOGUE_TIMEOUT_MS),
      )
      if (!response.ok) {
        await response.body?.cancel()
        return undefined
      }
      return toFacts(await response.json(), await runningContext(model).catch(() => undefined))
    } catch {
      return undefined
    }
  }

  return {
    async generate(path, body, signal) {
      const response = await post(path, body, signal)
      if (!response.ok || response.body === null) return refusalOf(response)
      return { ok: true, body: response.body as ReadableStream<Uint8Array> }
    },
    async models() {
      const answer = await get('/api/tags', CATALOGUE_TIMEOUT_MS)
      const listed = isRecord(answer) && Array.isArray(answer['models']) ? answer['models'] : []
      return listed.filter(isRecord).map(model => ({
        name: String(model['name'] ?? model['model'] ?? ''),
        modifiedAtMs: Date.parse(String(model['modified_at'])) || 0,
      }))
    },
    async describe(model) {
      const known = facts.get(model)
      if (known !== undefined && known.untilMs > now()) return known.value
      const value = lookUp(model)
      if (facts.size >= FACTS_MAX) facts.clear()
      facts.set(model, { value, untilMs: now() + FACTS_TTL_MS })
      // What Ollama doesn't know is kept for a moment only: a model that is pulled now must be found soon.
      if ((await value) === undefined) facts.set(model, { value, untilMs: now() + UNKNOWN_TTL_MS })
      return value
    },
    async version() {
      try {
        const answer = await get('/api/version', PROBE_TIMEOUT_MS)
        return isRecord(answer) ? String(answer['version'] ?? 'unknown') : 'unknown'
      } catch {
        return undefined
      }
    },
  }
}
