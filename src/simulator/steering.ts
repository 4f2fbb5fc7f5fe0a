/**
 * Models steered by their name, the load for benchmarks: `fake-c100-i20-d500-e0-b1-xr-k50`.
 *
 * | part | means | default |
 * | --- | --- | --- |
 * | `c` | tokens of the answer | 100 |
 * | `i` | ms between tokens; 0 is as fast as the client takes them | 0 |
 * | `d` | ms before the header | 0 |
 * | `e` | ms of quiet after the header | 0 |
 * | `b` | tokens a write | 1 when paced, as many as fit when not |
 * | `k` | the token before which the fault happens | 0 |
 * | `x` | the fault: `r` RST, `f` FIN without the last chunk, `s` silence for ever, `e` error line, `h` HTTP 500, `n` HTTP 404, and further `u` HTTP 503, `g` a line that is not JSON, `q` a regular end without `done`, `t` FIN inside a chunk, `w` silence of 1.5 s | none |
 *
 * A token is its number, `@`, the microsecond it was made (clock.ts) and one of eight payloads with escapes and UTF-8, so
 * that a client can check order, content and delay. The prompt always costs 26 and `eval_count` is `c`, or a smaller
 * `num_predict`. `/v1/chat/completions` gives the same as OpenAI's events, for comparing without a proxy.
 */
import { slowMs } from './behaviour.ts'
import { sharedMicros } from './clock.ts'
import type { Exchange } from './exchange.ts'
import type { Ended, LogEntry } from './journal.ts'
import { jsonType, ndjson, timestamp } from './speaker.ts'
import type { Wheel } from './wheel.ts'

export type Steering = {
  tokens: number
  intervalMs: number
  delayMs: number
  quietMs: number
  perWrite: number | undefined
  fault: string | undefined
  faultAt: number
}

export const steeredPromptTokens = 26

/** What a model's name asks for; undefined for a name that steers nothing. */
export const parseSteering = (model: string): Steering | undefined => {
  if (!model.startsWith('fake')) return undefined
  const find = (key: string) => {
    const found = new RegExp(`-${key}(\\d+)`).exec(model)?.[1]
    return found === undefined ? undefined : Number(found)
  }
  return {
    tokens: find('c') ?? 100,
    intervalMs: find('i') ?? 0,
    delayMs: find('d') ?? 0,
    quietMs: find('e') ?? 0,
    perWrite: find('b'),
    fault: /-x([a-z])/.exec(model)?.[1],
    faultAt: find('k') ?? 0,
  }
}

/** As they stand in JSON. */
const payloads = [
  ' the',
  ' model',
  ' says\\n',
  ' \\"q\\"',
  ' café',
  ' \\u003cb\\u003e',
  ' back\\\\slash',
  ' 日本',
].map(text => Buffer.from(text).toString('latin1'))
const queuedMax = 262_144
const batchMax = 512

type Format = {
  type: string
  before: string
  after: string
  final: (completion: number, reason: string) => string
}

const formats = (
  model: string,
  createdAt: string,
  elapsedNs: () => number,
): Record<'chat' | 'openai', Format> => {
  const name = JSON.stringify(model)
  const chunk = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":${name},`
  return {
    chat: {
      type: ndjson,
      before: `{"model":${name},"created_at":"${createdAt}","message":{"role":"assistant","content":"`,
      after: '"},"done":false}\n',
      final: (completion, reason) =>
        `{"model":${name},"created_at":"${createdAt}","message":{"role":"assistant","content":""},"done_reason":"${reason}","done":true,"total_duration":${elapsedNs()},"load_duration":1000000,"prompt_eval_count":${steeredPromptTokens},"prompt_eval_duration":2000000,"eval_count":${completion},"eval_duration":${elapsedNs()}}\n`,
    },
    openai: {
      type: 'text/event-stream',
      before: `${chunk}"system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":"`,
      after: '"},"finish_reason":null}]}\n\n',
      final: (completion, reason) =>
        `${chunk}"choices":[{"index":0,"delta":{},"finish_reason":"${reason}"}]}\n\n${chunk}"choices":[],"usage":${usage(completion)}}\n\ndata: [DONE]\n\n`,
    },
  }
}

const usage = (completion: number) =>
  `{"prompt_tokens":${steeredPromptTokens},"completion_tokens":${completion},"total_tokens":${steeredPromptTokens + completion}}`

const faultNames: Record<string, Ended> = {
  r: 'fault:reset',
  f: 'fault:truncate',
  t: 'fault:truncate',
  s: 'fault:stall',
  e: 'fault:error',
  g: 'fault:garbage',
  q: 'fault:end',
  h: 'fault:500',
  n: 'fault:404',
  u: 'fault:503',
}

const refusals: Record<string, { status: number; error: (model: string) => string }> = {
  h: { status: 500, error: () => 'llama runner process has terminated: exit status 2' },
  n: { status: 404, error: model => `model '${model}' not found` },
  u: { status: 503, error: () => 'server busy, please try again.  maximum pending requests exceeded' },
}

export type SteeredRequest = {
  exchange: Exchange
  entry: LogEntry
  ending: { how: Ended }
  model: string
  steering: Steering
  dialect: 'chat' | 'openai'
  stream: boolean
  limit: number | undefined
  wheel: Wheel
}

/** Answers as the name asks; `ending.how` says at any moment how the answer will have ended. */
export const steer = (request: SteeredRequest): void => {
  const { exchange, entry, ending, model, steering, dialect, stream, wheel } = request
  const { intervalMs, fault, quietMs, delayMs } = steering
  const total = Math.min(steering.tokens, request.limit ?? steering.tokens)
  const reason = total < steering.tokens ? 'length' : 'stop'
  const perWrite = steering.perWrite ?? (intervalMs > 0 ? 1 : batchMax)
  const startedUs = sharedMicros()
  const elapsedNs = () => (sharedMicros() - startedUs) * 1000 + 1
  const format = formats(model, timestamp(Date.now()), elapsedNs)[dialect]
  const before = Buffer.from(format.before).toString('latin1')
  // A fault past the end never happens.
  const faultAt =
    fault !== undefined && steering.faultAt < total ? steering.faultAt : Number.POSITIVE_INFINITY
  let next = 0
  let slowed = false
  let dueMs = wheel.now() + delayMs

  const answer = (status: number, text: string) => {
    exchange.head(status, { 'Content-Type': jsonType }, Buffer.byteLength(text))
    exchange.body(text, status === 200 ? total : 0)
    exchange.end()
  }

  const token = () => `${next}@${sharedMicros()}${payloads[next & 7]}`

  /** A batch of tokens, each an HTTP chunk, built as one-byte characters: joining strings and one copy is fastest. */
  const write = (count: number) => {
    let text = ''
    const marks: number[] = []
    for (let index = 0; index < count; index++) {
      const line = before + token() + format.after
      text += `${line.length.toString(16)}\r\n${line}\r\n`
      marks.push(text.length)
      next++
    }
    entry.generated = next
    exchange.framed(Buffer.from(text, 'latin1'), marks)
  }

  const plain = () => {
    let text = ''
    for (next = 0; next < total; next++) text += token()
    entry.generated = total
    entry.completionTokens = total
    const content = Buffer.from(text, 'latin1').toString()
    const openai = `{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":${JSON.stringify(model)},"choices":[{"index":0,"message":{"role":"assistant","content":"${content}"},"finish_reason":"${reason}"}],"usage":${usage(total)}}`
    if (dialect === 'openai') return answer(200, openai)
    answer(
      200,
      format
        .final(total, reason)
        .trimEnd()
        .replace('"content":""', () => `"content":"${content}"`),
    )
  }

  const breakOff = (kind: string) => {
    ending.how = faultNames[kind] ?? 'fault:reset'
    if (kind === 'r') return exchange.reset()
    if (kind === 'f') return exchange.fin()
    if (kind === 's') return
    if (kind === 'e')
      exchange.body('{"error":"an error was encountered while running the model: CUDA error"}\n')
    if (kind === 'g') exchange.body('}{ this is not JSON\n')
    if (kind !== 't') return exchange.end()
    exchange.raw('400\r\n{"model":"cut')
    exchange.fin()
  }

  const step = (): void => {
    while (!exchange.over && ending.how === 'done') {
      if (fault !== undefined && next === faultAt && !slowed) {
        if (fault !== 'w') {
          breakOff(fault)
          return
        }
        slowed = true
        wheel.after(slowMs, step)
        return
      }
      if (next >= total) {
        entry.completionTokens = total
        exchange.body(format.final(total, reason))
        exchange.end()
        return
      }
      const until = next < faultAt ? Math.min(faultAt, total) : total
      write(Math.min(perWrite, until - next))
      if (exchange.queued > queuedMax) {
        exchange.drained(step)
        return
      }
      if (intervalMs > 0 && next < total) {
        dueMs = Math.max(dueMs + intervalMs, wheel.now())
        wheel.addAt(dueMs, step)
        return
      }
    }
  }

  const start = () => {
    if (exchange.over) return
    if (!stream) return plain()
    exchange.head(200, { 'Content-Type': format.type })
    if (quietMs === 0) return step()
    exchange.raw('')
    dueMs = wheel.now() + quietMs
    wheel.addAt(dueMs, step)
  }

  const refusal = fault === undefined ? undefined : refusals[fault]
  if (fault !== undefined && refusal !== undefined) {
    ending.how = faultNames[fault] ?? 'done'
    answer(refusal.status, JSON.stringify({ error: refusal.error(model) }))
  } else if (delayMs > 0) wheel.addAt(dueMs, start)
  else start()
}
