/**
 * The lines of one run, total: `next` never throws for what Ollama does. A reset, a truncated body, garbage, an error
 * line, an end with neither `done` nor error: each becomes one `Broken` value (ollama-api.md §2.8).
 */
import { ApiError } from '../errors.ts'
import { createLineDecoder, LineError } from '../wire/framing.ts'
import type { Line, OllamaPath } from '../wire/ollama.ts'
import { toStreamFault } from './faults.ts'

/** What one read brought: lines that arrived together, or the end. */
export type Read = { lines: Line[] } | { broken: ApiError } | { ended: true }

/** Ollama limits one runner event to 8 MB; embeddings are one object, 2,048 vectors of 8,192 numbers at the most. */
const LINE_BYTES_MAX = 9 * 1024 * 1024
const EMBEDDINGS_BYTES_MAX = 256 * 1024 * 1024

const brokeOff = (cause: unknown) =>
  new ApiError('upstream', 'The model server broke off in the middle of the answer.', { cause })

const unreadable = (cause: unknown) =>
  new ApiError('upstream', 'The model server sent something unreadable.', { cause })

/**
 * @returns `next`, which resolves with what the next read brought. After `broken` or `ended` it must not be called again.
 */
export const createLines = (reader: ReadableStreamDefaultReader<Uint8Array>, path: OllamaPath) => {
  const decoder = createLineDecoder({
    lineBytesMax: path === '/api/embed' ? EMBEDDINGS_BYTES_MAX : LINE_BYTES_MAX,
  })
  let done = false
  let fault: ApiError | undefined

  /** Lines up to the first that ends the run; what follows a `done` line is not part of the answer. */
  const accept = (lines: Line[]): Line[] => {
    for (const [index, line] of lines.entries()) {
      if (line.error !== undefined) {
        fault = toStreamFault(String(line.error))
        return lines.slice(0, index)
      }
      if (line.done === true || line.embeddings !== undefined) {
        done = true
        return lines.slice(0, index + 1)
      }
    }
    return lines
  }

  /** After a whole answer the rest of the body is read, so that the connection can serve the next request. */
  const end = (): Read => {
    if (fault === undefined) {
      reader
        .read()
        .then(rest => (rest.done ? undefined : reader.cancel()))
        .catch(() => undefined)
      return { ended: true }
    }
    reader.cancel().catch(() => undefined)
    return { broken: fault }
  }

  const read = async (): Promise<Line[]> => {
    try {
      const { done: closed, value } = await reader.read()
      const lines = accept(closed ? decoder.end() : decoder.push(value))
      if (closed && !done) fault ??= brokeOff('the body ended without a done line')
      return lines
    } catch (cause) {
      // What came whole before the garbage was sent and is billed.
      const before = cause instanceof LineError ? accept(cause.before) : []
      fault ??= cause instanceof LineError ? unreadable(cause) : brokeOff(cause)
      return before
    }
  }

  return {
    async next(): Promise<Read> {
      while (!done && fault === undefined) {
        const lines = await read()
        if (lines.length > 0) return { lines }
      }
      return end()
    },
  }
}
export type Lines = ReturnType<typeof createLines>
