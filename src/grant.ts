/**
 * What may be delivered: output under a grant that grows as the answer goes. A grant is committed before its tokens are
 * delivered; when one is refused, what fits is delivered and the answer ends with `length`.
 */
import type { Ticket } from './flight.ts'
import type { WindowStore } from './limits/admission.ts'
import type { Meter } from './meter.ts'
import { orStorageFault } from './row.ts'
import type { Ledger } from './store/ledger.ts'
import type { Line, OllamaRequest } from './wire/ollama.ts'

/** A longer answer grows its grant by so many tokens at a time. */
const GRANT_STEP = 256

/** Lines that may go out now; `cut` when the rest may not. */
export type Covered = { lines: Line[]; tokens: number; cut: boolean }

type GrantDeps = { windows: WindowStore; ledger: Ledger }

export class Grant {
  readonly #deps: GrantDeps
  readonly #meter: Meter
  readonly #ticket: Ticket
  #delivered = 0
  /** Of those, what the windows were told: never more than the grant, though our count may be. */
  #inWindows = 0
  /** True while Ollama itself can't go over the grant: the cap sent with the run is within it. */
  #capped = false
  /** Our count past which the model can't be keeping to that cap, however wrong our count is. */
  #capDoubted = Number.POSITIVE_INFINITY
  /** So many more lines are within that cap: each is a token at least, and the last one is none. */
  #cappedLines = Number.POSITIVE_INFINITY

  constructor(deps: GrantDeps, meter: Meter, ticket: Ticket) {
    this.#deps = deps
    this.#meter = meter
    this.#ticket = ticket
  }

  /**
   * The run's request with what it may generate: never more than the user has left, nor the client's own maximum.
   * `waited`: others may have used since the admission what was left then.
   */
  capRequest(
    request: OllamaRequest,
    maxTokens: number | null,
    waited: boolean,
    nowMs: number,
  ): OllamaRequest {
    if ('input' in request) {
      this.#capped = true
      return request
    }
    const { hold, limits } = this.#ticket
    this.#delivered = this.#meter.completionDue
    const room = waited ? Math.min(hold.room, this.#deps.windows.room(hold, limits(), nowMs)) : hold.room
    const most = Math.min(maxTokens ?? Number.POSITIVE_INFINITY, room - this.#delivered)
    this.#capped = most <= hold.granted - this.#delivered
    this.#cappedLines = most + 1
    this.#capDoubted = this.#delivered + most * 1.5 + 16
    if (most === Number.POSITIVE_INFINITY) return request
    return { ...request, options: { ...request.options, num_predict: Math.max(1, most) } }
  }

  /** Whether another run could deliver a single token. */
  get isSpent() {
    return this.#ticket.hold.room - this.#meter.completionDue < 1
  }

  /** Counts lines that arrived together and says which of them may go out. Rejects when a grant can't be committed. */
  cover(lines: Line[], nowMs: number): Covered | Promise<Covered> {
    let tokens = 0
    const worth: number[] = []
    for (const line of lines) {
      const lineTokens = this.#meter.note(line)
      worth.push(lineTokens)
      tokens += lineTokens
    }
    this.#cappedLines -= lines.length
    // Past it the model does not keep to the cap, or thinks in a run of its own, which `format` makes of it.
    if (this.#cappedLines < 0 || this.#delivered + tokens > this.#capDoubted) this.#capped = false
    if (this.#capped || this.#delivered + tokens + 1 <= this.#ticket.hold.granted)
      return { lines, tokens, cut: false }
    return this.#extend(lines, worth, tokens, nowMs)
  }

  /** These tokens go to the client now (`told`), or are kept for the end of a plain answer. */
  deliver(tokens: number, told: boolean, nowMs: number) {
    const { hold } = this.#ticket
    if (told) this.#deps.windows.delivered(hold, Math.min(tokens, hold.granted - this.#inWindows), nowMs)
    this.#delivered += tokens
    this.#inWindows = Math.min(this.#inWindows + tokens, hold.granted)
  }

  /** More tokens than `lines` are worth, or as many as there are. */
  async #extend(lines: Line[], worth: number[], tokens: number, nowMs: number): Promise<Covered> {
    const { id, hold, limits } = this.#ticket
    const { windows, ledger } = this.#deps
    // One token is kept back for the end token, which Ollama counts and never shows.
    const short = this.#delivered + tokens + 1 - hold.granted
    const gained = windows.extend(hold, limits(), 1, Math.max(short, GRANT_STEP), nowMs)
    if (gained > 0) await orStorageFault(ledger.grant(id, hold.granted))
    if (gained >= short) return { lines, tokens, cut: false }
    let fitting = 0
    let fittingTokens = 0
    for (const lineTokens of worth) {
      if (this.#delivered + fittingTokens + lineTokens + 1 > hold.granted) break
      fittingTokens += lineTokens
      fitting++
    }
    this.#meter.discard(tokens - fittingTokens)
    return { lines: lines.slice(0, fitting), tokens: fittingTokens, cut: true }
  }
}
