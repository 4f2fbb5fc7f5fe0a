/**
 * Says an answer in Ollama's dialect: a stream of lines or one object, for `/api/chat` or `/api/generate`, ending as
 * Ollama ends or broken in one of the ways an upstream breaks. Counts as Ollama counts: every piece costs its tokens,
 * a natural end costs one more, `num_predict` ends it at exactly that number.
 */
import type { Exchange } from './exchange.ts'
import type { Ended, LogEntry } from './journal.ts'
import { isObject, type Json } from './json.ts'

export type ToolCall = {
  id?: string
  function: { index?: number; name: string; arguments: Record<string, unknown> }
}

export type Piece = { content?: string; thinking?: string; toolCall?: ToolCall }

/** What a `done` line says; everything else is put on the line as it stands, null leaves a field away. */
export type DoneFields = {
  prompt?: number | null
  completion?: number | null
  reason?: string | null
} & Json

export const ndjson = 'application/x-ndjson'
export const jsonType = 'application/json; charset=utf-8'

/** JSON as Go writes it: `<`, `>`, `&`, U+2028 and U+2029 are escaped. */
export const goJson = (value: unknown) =>
  JSON.stringify(value).replace(
    /[<>&\u2028\u2029]/g,
    character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )

/** RFC 3339 with nine digits, as Ollama's. */
export const timestamp = (nowMs: number) => `${new Date(nowMs).toISOString().slice(0, -1)}000000Z`

export type SpeakerOptions = {
  exchange: Exchange
  entry: LogEntry
  dialect: 'chat' | 'generate'
  stream: boolean
  /** Echoed as it was spelt. */
  model: string
  /** `num_predict`; undefined is no limit. */
  limit: number | undefined
  stops: readonly string[]
  now: () => number
}

export const createSpeaker = (options: SpeakerOptions) => {
  const { exchange, entry, dialect, stream, model, stops, now } = options
  let { limit } = options
  const startedAt = now()
  let firstAt: number | undefined
  let how: Ended = 'done'
  let ended = false
  let saidDone = false
  let lines = 0
  let held = ''
  let heldTokens = 0
  const said = { content: '', thinking: '', toolCalls: [] as ToolCall[], tokens: 0 }

  const head = () => ({ model, created_at: timestamp(now()) })

  const write = (text: string, tokens: number) => {
    if (!exchange.headSent) exchange.head(200, { 'Content-Type': ndjson })
    lines++
    exchange.body(text, tokens)
  }
  const object = (status: number, body: Json) => {
    const text = goJson(body)
    if (!exchange.headSent) exchange.head(status, { 'Content-Type': jsonType }, Buffer.byteLength(text))
    exchange.body(text, status === 200 ? said.tokens : 0)
    exchange.end()
  }

  const shape = (content: string, thinking: string, toolCalls: readonly ToolCall[]) => {
    const extra = {
      ...(thinking === '' ? {} : { thinking }),
      ...(toolCalls.length === 0 ? {} : { tool_calls: toolCalls }),
    }
    if (dialect === 'generate') return { response: content, ...extra }
    return { message: { role: 'assistant', content, ...extra } }
  }

  const emit = (piece: Piece, tokens: number) => {
    firstAt ??= now()
    const { content = '', thinking = '', toolCall } = piece
    const calls = toolCall === undefined ? [] : [toolCall]
    if (stream)
      return write(`${goJson({ ...head(), ...shape(content, thinking, calls), done: false })}\n`, tokens)
    said.content += content
    said.thinking += thinking
    said.toolCalls.push(...calls)
    said.tokens += tokens
  }

  const release = () => {
    if (held !== '' || heldTokens > 0) emit({ content: held }, heldTokens)
    held = ''
    heldTokens = 0
  }

  const finishWith = (fields: DoneFields, reason: string, completion: number) => {
    release()
    ended = true
    const { prompt, completion: given, reason: otherReason, ...rest } = fields
    const atMs = now()
    const evalCount = given === undefined ? completion : given
    entry.completionTokens = evalCount ?? 0
    const elapsed = Math.max(1, Math.round((atMs - startedAt) * 1e6))
    const line: Json = {
      ...head(),
      ...(stream ? shape('', '', []) : shape(said.content, said.thinking, said.toolCalls)),
      done: true,
      done_reason: otherReason === undefined ? reason : otherReason,
      ...(dialect === 'generate' ? { context: [117, 115, 101, 114] } : {}),
      total_duration: elapsed + 2_000_000,
      load_duration: 1_000_000,
      prompt_eval_count: prompt === undefined ? entry.promptTokens : prompt,
      prompt_eval_duration: 1_000_000,
      eval_count: evalCount,
      eval_duration: Math.max(1, Math.round((atMs - (firstAt ?? atMs)) * 1e6)),
      ...rest,
    }
    // Ollama leaves zero fields away.
    for (const [key, value] of Object.entries(line)) if (value === null || value === 0) delete line[key]
    if (!stream) return object(200, line)
    write(`${goJson(line)}\n`, 0)
    exchange.end()
  }

  const generated = (tokens: number) => {
    entry.generated += tokens
  }

  /** Ends by the limit once it is reached; true while there is more to say. */
  const withinLimit = () => {
    if (limit === undefined || entry.generated < limit) return true
    finishWith({}, 'length', limit)
    return false
  }

  const hold = (text: string, tokens: number): boolean => {
    held += text
    heldTokens += tokens
    const found = stops.map(stop => held.indexOf(stop)).filter(at => at >= 0)
    if (found.length > 0) {
      held = held.slice(0, Math.min(...found))
      heldTokens = held === '' ? 0 : heldTokens
      finishWith({}, 'stop', entry.generated)
      return false
    }
    const mayBecome = stops.some(stop => {
      for (let length = Math.min(stop.length - 1, held.length); length > 0; length--)
        if (held.endsWith(stop.slice(0, length))) return true
      return false
    })
    if (!mayBecome) release()
    return true
  }

  const broken = (kind: string) => {
    ended = true
    how = `fault:${kind}`
  }

  return {
    /** How the answer will have ended when its last byte is taken. */
    how: () => how,
    ended: () => ended,
    /** A scripted line has already said `"done":true`. */
    saidDone: () => saidDone,
    /** Lines written, the last one included. */
    lines: () => lines,

    /** Forgets `num_predict`. */
    unlimited() {
      limit = undefined
    },

    /** One piece of text, thinking or a call, worth `tokens`. False once the answer is over. */
    say(piece: Piece, tokens: number): boolean {
      if (ended || exchange.over) return false
      const left = limit === undefined ? Number.POSITIVE_INFINITY : limit - entry.generated
      if (tokens > left && piece.content !== undefined) {
        const cut = Math.max(1, Math.floor((piece.content.length * left) / tokens))
        generated(left)
        emit({ content: piece.content.slice(0, cut) }, left)
      } else {
        generated(tokens)
        const { content } = piece
        const plain = content !== undefined && piece.thinking === undefined && piece.toolCall === undefined
        if (plain && stops.length > 0) {
          if (!hold(content, tokens)) return false
        } else {
          release()
          emit(piece, tokens)
        }
      }
      return withinLimit()
    },
    /** A line as it stands (for a plain answer: the body). */
    line(value: unknown, tokens: number) {
      generated(tokens)
      const text = JSON.stringify(value)
      if (isObject(value) && value['done'] === true) {
        saidDone = true
        entry.completionTokens = typeof value['eval_count'] === 'number' ? value['eval_count'] : 0
      }
      if (stream) return write(`${text}\n`, tokens)
      ended = true
      if (!exchange.headSent) exchange.head(200, { 'Content-Type': jsonType }, Buffer.byteLength(text))
      exchange.body(text, tokens)
      exchange.end()
    },
    /** Bytes into the body as they are. */
    bytes(data: string | Uint8Array) {
      if (!exchange.headSent) exchange.head(200, { 'Content-Type': stream ? ndjson : jsonType })
      exchange.body(data)
    },
    /** The natural end: one more token unless told otherwise. */
    done(fields: DoneFields = {}) {
      generated(1)
      finishWith(fields, 'stop', entry.generated)
    },
    /** A regular end of the body without a `done` line; plain: 200 with `"done":false` and no counts. */
    end() {
      if (saidDone) ended = true
      else broken('end')
      release()
      if (!stream && !exchange.headSent) {
        return object(200, { ...head(), ...shape(said.content, said.thinking, said.toolCalls), done: false })
      }
      if (!exchange.headSent) exchange.head(200, { 'Content-Type': ndjson })
      exchange.end()
    },
    /** An error line under status 200 and a regular end; plain: a 500. */
    error(text: string) {
      broken('error')
      if (!stream) return object(500, { error: text })
      write(`${JSON.stringify({ error: text })}\n`, 0)
      exchange.end()
    },
    /** A line that is not JSON, then a regular end. */
    garbage() {
      broken('garbage')
      if (!exchange.headSent) exchange.head(200, { 'Content-Type': stream ? ndjson : jsonType })
      exchange.body('}{ this is not JSON \u0000\n')
      exchange.end()
    },
    reset() {
      broken('reset')
      exchange.reset()
    },
    /** Leaves (FIN) inside an HTTP chunk, in the middle of a line. */
    truncate() {
      broken('truncate')
      const partial = `{"model":${JSON.stringify(model)},"cre`
      if (!exchange.headSent) exchange.head(200, { 'Content-Type': stream ? ndjson : jsonType })
      exchange.raw(`${(partial.length + 200).toString(16)}\r\n${partial}`)
      exchange.fin()
    },
    /** Silence until the client leaves. */
    stall() {
      broken('stall')
    },
    /** An answer other than 200 instead of all this. */
    status(status: number, body: string | Json, headers: Record<string, string> = {}) {
      broken(String(status))
      if (exchange.headSent) throw new Error('status() comes too late: the answer has begun')
      const text = typeof body === 'string' ? body : goJson(body)
      exchange.head(status, { 'Content-Type': jsonType, ...headers }, Buffer.byteLength(text))
      exchange.body(text)
      exchange.end()
    },
  }
}

export type Speaker = ReturnType<typeof createSpeaker>
