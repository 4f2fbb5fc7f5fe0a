/** A flight's ledger row: opened before anything is sent, checkpointed while it runs, closed once. */
import { ApiError } from './errors.ts'
import type { Job, Ticket } from './flight.ts'
import type { Cost, Meter } from './meter.ts'
import type { Ledger, Outcome } from './store/ledger.ts'

/** A crash loses at most so many delivered tokens of a stream, or a second's worth. */
const CHECKPOINT_TOKENS = 16
const CHECKPOINT_MS = 1000

const storageFault = (cause: unknown) =>
  new ApiError('storage_full', 'The usage record could not be written. Please try again later.', {
    cause,
    headers: { 'retry-after': '5' },
  })

/** What could not be committed is a 503 `storage_full`; nothing of it was done. */
export const orStorageFault = (written: Promise<void>): Promise<void> =>
  written.catch(cause => {
    throw storageFault(cause)
  })

type RowDeps = { ledger: Ledger; meter: Meter; steady: () => number }

/** Every promise of it rejects with a 503 `storage_full` when the row could not be committed. */
export const createRow = ({ ledger, meter, steady }: RowDeps, job: Job, ticket: Ticket) => {
  const sinceArrival = () => Math.round(steady() - ticket.arrivedSteadyMs)
  const facts = {
    id: ticket.id,
    userNumber: ticket.userNumber,
    keyId: ticket.keyId,
    modelId: ticket.modelId,
    kind: job.kind,
    price: ticket.price,
    admittedAfterMs: ticket.admittedAfterMs,
  }
  let checkpointTokens = 0
  let checkpointAt = steady()
  let firstTokenMs: number | null = null

  const checkpoint = () => {
    checkpointTokens = meter.counted
    checkpointAt = steady()
    ledger.checkpoint({
      id: ticket.id,
      promptCounted: meter.promptDue,
      completionCounted: meter.counted,
      atMs: sinceArrival(),
    })
  }

  return {
    sinceArrival,
    open(queueMs: number): Promise<void> {
      return orStorageFault(
        ledger.open({
          ...facts,
          queueMs,
          promptPromised: ticket.promptPromised,
          completionPromised: ticket.hold.granted,
          promptCounted: job.runs[0]?.promptExpected ?? 0,
          preview: job.preview,
        }),
      )
    },
    noteFirstToken() {
      firstTokenMs ??= sinceArrival()
    },
    /**
     * Before lines are delivered: a checkpoint where one is due. Lines that would bring what is
     * not committed over what a crash may lose wait until it is.
     */
    beforeDelivery(): Promise<void> | undefined {
      const unwritten = meter.counted - checkpointTokens
      if (unwritten < CHECKPOINT_TOKENS) return undefined
      checkpoint()
      return unwritten > CHECKPOINT_TOKENS ? orStorageFault(ledger.committed()) : undefined
    },
    /** Another run is being sent: its prompt is due. */
    beforeRun: checkpoint,
    tick() {
      if (meter.counted > checkpointTokens && steady() - checkpointAt >= CHECKPOINT_MS) checkpoint()
    },
    close(outcome: Outcome, cost: Cost, queueMs: number): Promise<void> {
      return orStorageFault(
        ledger.close({
          ...facts,
          outcome,
          basis: cost.basis,
          promptTokens: cost.promptTokens,
          completionTokens: cost.completionTokens,
          queueMs,
          firstTokenMs,
          durationMs: sinceArrival(),
          ...meter.durations(),
        }),
      )
    },
  }
}
