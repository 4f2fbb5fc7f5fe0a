/**
 * What may be delivered: output under a grant that grows as the answer goes. A grant is committed before its tokens are
 * delivered; when one is refused, what fits is delivered and the answer ends with `length`.
 */
import type { Run, Ticket } from './flight.ts'
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
  /** Tokens of this run that may be generated without being shown. */
  #heldBack = 0
  /** What this run and those before it can come to, by the cap that was sent with it: within it our count does not matter. */
  #cap = Number.POSITIVE_INFINITY
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
   * `waited`: it is not sent in the turn of its admission.
   */
  capRequest(
    { request, heldBack }: Pick<Run, 'request' | 'heldBack'>,
    maxTokens: number | null,
    waited: boolean,
    nowMs: number,
  ): OllamaRequest {
    this.#heldBack = heldBack
    if ('input' in request) {
      this.#cap = 0
      return request
    }
    this.#delivered = this.#meter.completionDue
    const room = waited ? this.#roomNow(nowMs) : this.#ticket.hold.room
    const most = Math.min(maxTokens ?? Number.POSITIVE_INFINITY, room - this.#delivered)
    this.#cap = this.#delivered + most
    this.#cappedLines = most + 1
    this.#capDoubted = this.#delivered + most * 1.5 + 16
    if (most === Number.POSITIVE_INFINITY) return request
    return { ...request, options: { ...request.options, num_predict: Math.max(1, most) } }
  }

  /** Whether another run could not deliver a single token. */
  isSpent(nowMs: number): boolean {
    return this.#roomNow(nowMs) - this.#meter.completionDue < 1
  }

  /** Counts lines that arrived together and says which of them may go out. Rejects when a grant can't be committed. */
  cover(lines: Line[], nowMs: number): Covered | Promise<Covered> {
    let tokens = 0
    const worth: number[] = []
    const doubts: number[] = []
    for (const line of lines) {
      const lineTokens = this.#meter.note(line)
      tokens += lineTokens
      worth.push(lineTokens)
      doubts.push(this.#meter.doubt)
    }
    this.#cappedLines -= lines.length
    // Past it the model does not keep to the cap, or thinks in a run of its own, which `format` makes of it.
    if (this.#cappedLines < 0 || this.#delivered + tokens > this.#capDoubted)
      this.#cap = Number.POSITIVE_INFINITY
    if (this.#isCapped || this.#needed(tokens, this.#meter.doubt, lines) <= this.#ticket.hold.granted)
      return { lines, tokens, cut: false }
    return this.#extend(lines, worth, doubts, nowMs)
  }

  /** These tokens go to the client now (`told`), or are kept for the end of a plain answer. */
  deliver(tokens: number, told: boolean, nowMs: number) {
    const { hold } = this.#ticket
    if (told) this.#deps.windows.delivered(hold, Math.min(tokens, hold.granted - this.#inWindows), nowMs)
    this.#delivered += tokens
    this.#inWindows = Math.min(this.#inWindows + tokens, hold.granted)
  }

  /** All that may be generated: others may have used since the admission what was left then. */
  #roomNow(nowMs: number): number {
    const { hold, limits } = this.#ticket
    return Math.min(hold.room, this.#deps.windows.room(hold, limits(), nowMs))
  }

  /** Ollama itself can't go over the grant. */
  get #isCapped() {
    return this.#cap <= this.#ticket.hold.granted
  }

  /**
   * What must be granted for so many tokens more: Ollama's own count where it came with them; one that comes alone is of
   * what was delivered already. Else room is kept for what Ollama counts and never shows: the end token, and the text
   * that a stop string makes it drop.
   */
  #needed(tokens: number, doubt: number, lines?: Line[]) {
    const reported = tokens > 0 && lines?.at(-1)?.done === true ? this.#meter.reported : undefined
    return reported ?? this.#delivered + tokens + doubt + this.#heldBack + 1
  }

  /** More tokens than `lines` may hold, or as many as there are. */
  async #extend(lines: Line[], worth: number[], doubts: number[], nowMs: number): Promise<Covered> {
    const { id, hold, limits } = this.#ticket
    const { windows, ledger } = this.#deps
    const tokens = worth.reduce((sum, lineTokens) => sum + lineTokens, 0)
    const short = this.#needed(tokens, doubts.at(-1) ?? 0, lines) - hold.granted
    const gained = windows.extend(hold, limits(), 1, Math.max(short, GRANT_STEP), nowMs)
    if (gained > 0) await orStorageFault(ledger.grant(id, hold.granted))
    if (gained >= short || this.#isCapped) return { lines, tokens, cut: false }
    let fitting = 0
    let fittingTokens = 0
    for (const [index, lineTokens] of worth.entries()) {
      if (this.#needed(fittingTokens + lineTokens, doubts[index] ?? 0) > hold.granted) break
      fittingTokens += lineTokens
      fitting++
    }
    this.#meter.discard(tokens - fittingTokens)
    return { lines: lines.slice(0, fitting), tokens: fittingTokens, cut: true }
  }
}
