/** A flight's ledger row: opened before anything is sent, checkpointed while it runs, closed once. */
import { ApiError } from './errors.ts'
import type { Job, Ticket } from './flight.ts'
import type { Cost, Meter } from './meter.ts'
import type { Checkpoint, Checkpointed, Ledger, Outcome } from './store/ledger.ts'

/** A crash loses at most so many delivered tokens of a stream, or a second's worth. */
const CHECKPOINT_TOKENS = 16
const CHECKPOINT_MS = 1000
/**
 * From so many on a checkpoint goes along with whatever group is written: of 512 streams one then writes for all, a
 * tenth less CPU a token than sixteenth by sixteenth (docs/performance.md).
 */
const OFFERED_TOKENS = 8

const storageFault = (cause: unknown) =>
  new ApiError('storage_full', 'The usage record could not be written. Please try again later.', {
    cause,
    headers: { 'retry-after': '5' },
  })

const throwStorageFault = (cause: unknown): never => {
  throw storageFault(cause)
}

/** What could not be committed is a 503 `storage_full`; nothing of it was done. */
export const orStorageFault = (written: Promise<void>): Promise<void> => written.catch(throwStorageFault)

type RowDeps = { ledger: Ledger; steady: () => number }

/** Every promise of it rejects with a 503 `storage_full` when the row could not be committed. */
export class Row implements Checkpointed {
  readonly #deps: RowDeps
  readonly #meter: Meter
  readonly #job: Job
  readonly #ticket: Ticket
  #checkpointTokens = 0
  #offered = false
  #checkpointAt: number
  #firstTokenMs: number | null = null

  constructor(deps: RowDeps, meter: Meter, job: Job, ticket: Ticket) {
    this.#deps = deps
    this.#meter = meter
    this.#job = job
    this.#ticket = ticket
    this.#checkpointAt = deps.steady()
  }

  sinceArrival(): number {
    return Math.round(this.#deps.steady() - this.#ticket.arrivedSteadyMs)
  }

  open(queueMs: number): Promise<void> {
    const { id, userNumber, keyId, modelId, price, admittedAfterMs, promptPromised, hold } = this.#ticket
    const { kind, runs, preview } = this.#job
    return orStorageFault(
      this.#deps.ledger.open({
        id,
        userNumber,
        keyId,
        modelId,
        kind,
        price,
        admittedAfterMs,
        queueMs,
        promptPromised,
        completionPromised: hold.granted,
        promptCounted: runs[0]?.promptExpected ?? 0,
        preview,
      }),
    )
  }

  noteFirstToken() {
    this.#firstTokenMs ??= this.sinceArrival()
  }

  /**
   * Before lines are delivered: a checkpoint where one is due. Lines that would bring what is
   * not committed over what a crash may lose wait until it is.
   */
  beforeDelivery(): Promise<void> | undefined {
    const unwritten = this.#meter.counted - this.#checkpointTokens
    if (unwritten < OFFERED_TOKENS) return undefined
    const { ledger } = this.#deps
    if (unwritten < CHECKPOINT_TOKENS) {
      if (!this.#offered) ledger.offerCheckpoint(this, false)
      this.#offered = true
      return undefined
    }
    ledger.checkpoint(this)
    return unwritten > CHECKPOINT_TOKENS ? orStorageFault(ledger.committed()) : undefined
  }

  /** Another run is being sent: its prompt is due. */
  beforeRun() {
    this.#deps.ledger.checkpoint(this)
  }

  tick(nowMs: number) {
    if (this.#meter.counted > this.#checkpointTokens && nowMs - this.#checkpointAt >= CHECKPOINT_MS)
      this.#deps.ledger.offerCheckpoint(this, true)
  }

  get id() {
    return this.#ticket.id
  }

  /** For the ledger, which writes it down. */
  checkpoint(): Checkpoint {
    this.#offered = false
    this.#checkpointTokens = this.#meter.counted
    this.#checkpointAt = this.#deps.steady()
    return {
      id: this.#ticket.id,
      promptCounted: this.#meter.promptDue,
      completionCounted: this.#meter.counted,
      atMs: this.sinceArrival(),
    }
  }

  close(outcome: Outcome, cost: Cost, queueMs: number): Promise<void> {
    const { id, userNumber, keyId, modelId, price, admittedAfterMs } = this.#ticket
    const { loadUs, promptEvalUs, evalUs } = this.#meter.durations()
    return orStorageFault(
      this.#deps.ledger.close({
        id,
        userNumber,
        keyId,
        modelId,
        kind: this.#job.kind,
        outcome,
        basis: cost.basis,
        promptTokens: cost.promptTokens,
        completionTokens: cost.completionTokens,
        price,
        admittedAfterMs,
        queueMs,
        firstTokenMs: this.#firstTokenMs,
        durationMs: this.sinceArrival(),
        loadUs,
        promptEvalUs,
        evalUs,
      }),
    )
  }
}
