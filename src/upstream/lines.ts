/**
 * The lines of one run, total: whatever Ollama sends, `push` and `end` never throw. An error line, garbage, an end with
 * neither `done` nor error: each becomes one `fault` (ollama-api.md §2.8).
 */
import { ApiError } from '../errors.ts'
import { createLineDecoder, type LineDecoder, LineError } from '../wire/framing.ts'
import type { Line, OllamaPath } from '../wire/ollama.ts'
import { toStreamFault } from './faults.ts'

/** Ollama limits one runner event to 8 MB; embeddings are one object, 2,048 vectors of 8,192 numbers at the most. */
const LINE_BYTES_MAX = 9 * 1024 * 1024
const EMBEDDINGS_BYTES_MAX = 256 * 1024 * 1024

/** Ollama's death in the middle of an answer: a reset, a body cut short, an end without a `done` line. */
export const brokeOff = (cause: unknown) =>
  new ApiError('upstream', 'The model server broke off in the middle of the answer.', { cause })

/** The lines before the garbage hold what the model said, so the error itself must not reach the log. */
const unreadable = ({ message }: LineError) =>
  new ApiError('upstream', 'The model server sent something unreadable.', { cause: message })

export class Lines {
  readonly #decoder: LineDecoder
  #done = false
  #fault: ApiError | undefined

  constructor(path: OllamaPath) {
    this.#decoder = createLineDecoder({
      lineBytesMax: path === '/api/embed' ? EMBEDDINGS_BYTES_MAX : LINE_BYTES_MAX,
    })
  }

  /** The lines that these bytes complete, up to the one that ends the run. */
  push(bytes: Uint8Array): Line[] {
    try {
      return this.#accept(this.#decoder.push(bytes))
    } catch (cause) {
      return this.#acceptBefore(cause)
    }
  }

  /** The body has ended: the last line, which may lack its newline. A run that is not done then has a fault. */
  end(): Line[] {
    let lines: Line[]
    try {
      lines = this.#accept(this.#decoder.end())
    } catch (cause) {
      lines = this.#acceptBefore(cause)
    }
    if (!this.#done) this.#fault ??= brokeOff('the body ended without a done line')
    return lines
  }

  /** Its last line was seen: the only proof that the run is complete. */
  get done() {
    return this.#done
  }

  get fault() {
    return this.#fault
  }

  /** Lines up to the first that ends the run; what follows a `done` line is not part of the answer. */
  #accept(lines: Line[]): Line[] {
    if (this.#done || this.#fault !== undefined) return []
    for (let index = 0; index < lines.length; index++) {
      const line = lines[index]
      if (line?.error !== undefined) {
        this.#fault = toStreamFault(String(line.error))
        return lines.slice(0, index)
      }
      if (line?.done === true || line?.embeddings !== undefined) {
        this.#done = true
        return lines.slice(0, index + 1)
      }
    }
    return lines
  }

  /** What came whole before the garbage was sent and is billed. */
  #acceptBefore(cause: unknown): Line[] {
    if (!(cause instanceof LineError)) throw cause
    const before = this.#accept(cause.before)
    if (!this.#done) this.#fault ??= unreadable(cause)
    return before
  }
}
