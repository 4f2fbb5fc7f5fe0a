/**
 * The two framings: NDJSON in from Ollama, server-sent events out to a client.
 *
 * Lines are split on byte 10 alone, before any decoding: UTF-8 never holds that byte inside a character, so a read
 * may end anywhere. A read of whole lines, the usual case, is decoded once and split as text; only an unfinished
 * line is kept as bytes, and joined once when its end comes, so the cost stays linear however small the reads are.
 */
import type { Line } from './ollama.ts'

/** Not a line of Ollama's. `before` holds the good lines of the same read: they were sent, so they are billed. */
export class LineError extends Error {
  readonly kind: 'too_long' | 'not_json'
  readonly before: Line[]

  constructor(kind: LineError['kind'], before: Line[]) {
    super(kind === 'too_long' ? 'a line is longer than the bound' : 'a line is not a JSON object')
    this.name = 'LineError'
    this.kind = kind
    this.before = before
  }
}

export interface LineDecoder {
  /** The lines that these bytes complete. Keeps a reference to `bytes` when they end inside a line. */
  push(bytes: Uint8Array): Line[]
  /** The last line, which may lack its newline; [] when there is none. */
  end(): Line[]
}

const newline = 10

class Decoder implements LineDecoder {
  readonly #utf8 = new TextDecoder()
  readonly #lineBytesMax: number
  #pending: Uint8Array[] = []
  #pendingBytes = 0

  constructor(lineBytesMax: number) {
    this.#lineBytesMax = lineBytesMax
  }

  push(bytes: Uint8Array): Line[] {
    const lines: Line[] = []
    const last = bytes.lastIndexOf(newline)
    if (last === bytes.length - 1 && this.#pendingBytes === 0 && bytes.length <= this.#lineBytesMax) {
      // Whole lines and nothing else, the usual case: most reads are one line, which needs no splitting.
      const text = this.#utf8.decode(bytes)
      if (text.indexOf('\n') === text.length - 1) parseLine(text, lines)
      else for (const line of text.slice(0, -1).split('\n')) parseLine(line, lines)
      return lines
    }
    if (last === -1) {
      this.#keep(bytes, lines)
      return lines
    }
    const whole = this.#takePending(bytes.subarray(0, last))
    if (whole.length <= this.#lineBytesMax) {
      for (const text of this.#utf8.decode(whole).split('\n')) parseLine(text, lines)
    } else {
      for (let start = 0; start <= whole.length; ) {
        const found = whole.indexOf(newline, start)
        const end = found === -1 ? whole.length : found
        if (end - start > this.#lineBytesMax) throw new LineError('too_long', lines)
        parseLine(this.#utf8.decode(whole.subarray(start, end)), lines)
        start = end + 1
      }
    }
    this.#keep(bytes.subarray(last + 1), lines)
    return lines
  }

  end(): Line[] {
    const lines: Line[] = []
    parseLine(this.#utf8.decode(this.#takePending(new Uint8Array(0))), lines)
    return lines
  }

  #takePending(last: Uint8Array): Uint8Array {
    if (this.#pendingBytes === 0) return last
    const whole = new Uint8Array(this.#pendingBytes + last.length)
    let offset = 0
    for (const piece of this.#pending) {
      whole.set(piece, offset)
      offset += piece.length
    }
    whole.set(last, offset)
    this.#pending = []
    this.#pendingBytes = 0
    return whole
  }

  #keep(bytes: Uint8Array, before: Line[]) {
    if (bytes.length === 0) return
    if (this.#pendingBytes + bytes.length > this.#lineBytesMax) throw new LineError('too_long', before)
    this.#pending.push(bytes)
    this.#pendingBytes += bytes.length
  }
}

const parseLine = (text: string, into: Line[]) => {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    if (text.trim() === '') return
    throw new LineError('not_json', into)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new LineError('not_json', into)
  into.push(value as Line)
}

/**
 * Bytes → JSON objects, one a line; blank lines are skipped. A line of more than `lineBytesMax` bytes (its newline
 * not counted), or one that is not a JSON object, throws a `LineError`; the decoder is of no use after that.
 */
export const createLineDecoder = ({ lineBytesMax }: { lineBytesMax: number }): LineDecoder =>
  new Decoder(lineBytesMax)

const separators = /[\u0085\u2028\u2029]/
const everySeparator = /[\u0085\u2028\u2029]/g

/**
 * JSON in which no character ends a line for anybody: readers that split text with Unicode's rules (Python's
 * `splitlines`, as httpx did) would cut an event at U+0085, U+2028 or U+2029. They stand only inside strings, where an
 * escape means the same.
 */
export const escapeSeparators = (json: string): string =>
  separators.test(json)
    ? json.replace(everySeparator, character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
    : json

/** One server-sent event. No `event:`, `id:` or `retry:` lines: each breaks a client (openai-api §2.5). */
export const encodeEvent = (json: string): string => `data: ${escapeSeparators(json)}\n\n`

/** The end of a good stream, to the letter: clients compare it exactly. */
export const DONE = 'data: [DONE]\n\n'

/** A comment for a quiet stream. One newline, not two: a blank line is an empty event to older Go clients. */
export const KEEP_ALIVE = ': keep-alive\n'
