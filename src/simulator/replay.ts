/**
 * Recordings of a real Ollama, served as they were taken: status, headers, reads. One folder per case, one folder per
 * step for cases of several requests; the layout is told in tests/fixtures/captures/README.md.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Exchange } from './exchange.ts'
import { isObject, type Json, parseJson } from './json.ts'
import type { Wheel } from './wheel.ts'

export type Recording = {
  /** `chat-hello-stream`, or `queue-one-slot/2-waiting` for a step. */
  name: string
  method: string
  path: string
  /** Undefined for a request without a JSON body. */
  body: unknown
  /** Null when the client left before any answer. */
  status: number | null
  /** Without Date, Content-Length and Transfer-Encoding. */
  headers: Record<string, string>
  /** The reads of a stream, or the whole body as one. */
  chunks: { ms: number; text: string }[]
  streamed: boolean
  ended: 'complete' | 'connection closed early' | 'client hung up'
}

export type ReplayOptions = {
  /** Waits between reads as recorded; otherwise not at all. */
  pace?: boolean
  /** Joins the reads and cuts them anew every so many bytes; `bytewise`: one byte a write, framing included. */
  cut?: number | 'bytewise'
}

const json = (file: string): Json => {
  const value: unknown = JSON.parse(readFileSync(file, 'utf8'))
  if (!isObject(value)) throw new Error(`${file} holds no object`)
  return value
}

const isLeftOut = (name: string) =>
  ['date', 'content-length', 'transfer-encoding'].includes(name.toLowerCase())

const readChunks = (folder: string): { ms: number; text: string }[] =>
  readFileSync(join(folder, 'response.chunks.jsonl'), 'utf8')
    .split('\n')
    .filter(line => line !== '')
    .map(line => JSON.parse(line))

const readRecording = (root: string, name: string): Recording => {
  const folder = join(root, name)
  const request = json(join(folder, 'request.json'))
  const response = json(join(folder, 'response.headers.json'))
  const streamed = existsSync(join(folder, 'response.chunks.jsonl'))
  const whole = ['json', 'txt', 'ndjson', 'sse']
    .map(type => join(folder, `response.${type}`))
    .find(existsSync)
  const text = whole === undefined ? '' : readFileSync(whole, 'utf8')
  const headers = isObject(response['headers']) ? response['headers'] : {}
  const ended = response['ended']
  return {
    name,
    method: String(request['method']),
    path: String(request['path']),
    body: request['body'],
    status: typeof response['status'] === 'number' ? response['status'] : null,
    headers: Object.fromEntries(
      Object.entries(headers)
        .filter(([header]) => !isLeftOut(header))
        .map(([header, value]) => [header, String(value)]),
    ),
    chunks: streamed ? readChunks(folder) : text === '' ? [] : [{ ms: 0, text }],
    streamed,
    ended: ended === 'connection closed early' || ended === 'client hung up' ? ended : 'complete',
  }
}

/** The names of all cases in a folder of recordings. */
export const listCases = (root: string): string[] =>
  readdirSync(root, { withFileTypes: true })
    .filter(entry => entry.isDirectory())
    .map(({ name }) => name)
    .sort()

/** The recordings of a case in the order they were sent; one for most. */
export const readCase = (root: string, name: string): Recording[] => {
  if (existsSync(join(root, name, 'request.json'))) return [readRecording(root, name)]
  if (!existsSync(join(root, name))) throw new Error(`no recording named ${name}`)
  return listCases(join(root, name)).map(step => readRecording(root, `${name}/${step}`))
}

const equal = (a: unknown, b: unknown) => Bun.deepEquals(a ?? null, b ?? null)

const subject = (body: Json) => [
  body['messages'],
  body['prompt'],
  body['input'],
  body['suffix'],
  body['system'],
]

/** How well a request fits a recording; undefined when it is another request. */
const fit = (recording: Recording, method: string, path: string, body: unknown): number | undefined => {
  if (recording.method !== method || recording.path !== path) return undefined
  if (!isObject(recording.body) || !isObject(body)) return equal(recording.body, body) ? 0 : undefined
  const recorded = recording.body
  if (recorded['model'] !== body['model'] || !equal(subject(recorded), subject(body))) return undefined
  if ((recorded['stream'] ?? true) !== (body['stream'] ?? true)) return undefined
  const keys = new Set([...Object.keys(recorded), ...Object.keys(body)])
  let score = 0
  for (const key of keys) score += equal(recorded[key], body[key]) ? 1 : -1
  return score
}

/** Among recordings of the same model, subject and `stream`, the one whose other fields fit best; first on a tie. */
export const findRecording = (
  recordings: readonly Recording[],
  method: string,
  path: string,
  body: unknown,
) => {
  let best: { recording: Recording; score: number } | undefined
  for (const recording of recordings) {
    const score = fit(recording, method, path, body)
    if (score !== undefined && (best === undefined || score > best.score)) best = { recording, score }
  }
  return best?.recording
}

/** Ollama's own counts in a recording, from its last line or its object. */
export const recordedCounts = ({ chunks }: Recording) => {
  const last = parseJson(
    chunks
      .map(({ text }) => text)
      .join('')
      .trimEnd()
      .split('\n')
      .at(-1) ?? '',
  )
  const count = (key: string) => (isObject(last) && typeof last[key] === 'number' ? last[key] : undefined)
  return { prompt: count('prompt_eval_count'), completion: count('eval_count') }
}

const recut = (chunks: Recording['chunks'], size: number): { ms: number; data: Uint8Array }[] => {
  const bytes = Buffer.from(chunks.map(({ text }) => text).join(''))
  const pieces: { ms: number; data: Uint8Array }[] = []
  for (let at = 0; at < bytes.length; at += size) pieces.push({ ms: 0, data: bytes.subarray(at, at + size) })
  return pieces
}

/** Serves a recording. The header leaves with the first read, as it did; a client that hung up then is waited for now. */
export const serveRecording = (
  recording: Recording,
  exchange: Exchange,
  wheel: Wheel,
  { pace = false, cut }: ReplayOptions = {},
) => {
  const { status, headers, streamed, ended } = recording
  if (status === null) return
  if (cut === 'bytewise') exchange.bytewise()
  const parts =
    typeof cut === 'number' && streamed
      ? recut(recording.chunks, cut)
      : recording.chunks.map(({ ms, text }) => ({ ms, data: Buffer.from(text) }))
  const length = parts.reduce((sum, { data }) => sum + data.length, 0)
  if (streamed) exchange.head(status, headers)
  else exchange.head(status, headers, length)
  const startedMs = wheel.now()

  const next = (index: number): void => {
    if (exchange.over) return
    const part = parts[index]
    if (part === undefined) {
      if (ended === 'connection closed early') exchange.fin()
      else if (ended === 'complete') exchange.end()
      return
    }
    const go = () => {
      exchange.body(part.data, streamed ? part.data.filter(byte => byte === 10).length : 0)
      exchange.drained(() => next(index + 1))
    }
    if (pace && part.ms > 0) wheel.addAt(startedMs + part.ms, go)
    else go()
  }
  next(0)
}
