/**
 * The ledger's writing side: every request opened before work is sent, closed exactly once, each meaning committed.
 *
 * Writes are gathered into groups, one transaction each: what one turn of the event loop brought is committed
 * together (idle, a single row at once; under load dozens), and answers wait for their group.
 */
export const kinds = ['chat', 'completion', 'embedding'] as const
export type Kind = (typeof kinds)[number]
export const outcomes = ['completed', 'failed', 'cancelled', 'recovered'] as const
export type Outcome = (typeof outcomes)[number]
/** measured: Ollama's own final counts. counted: by us. recovered: from the last checkpoint before a crash. */
export const bases = ['measured', 'counted', 'recovered'] as const
export type Basis = (typeof bases)[number]

/** A price in 10^-12 units a token; 0 where the model has none. */
export type TokenPrice = { input: number; output: number }

export type Opening = {
  /** Epoch ms of the request's arrival × 1024 + sequence; the completion's id and x-request-id are made from it. */
  id: number
  userNumber: number
  keyId: number
  modelId: number
  kind: Kind
  /** Milliseconds from arrival to admission, and from admission to the place in Ollama's line. */
  admittedAfterMs: number
  queueMs: number
  price: TokenPrice
  /** Reserved tokens: the prompt's estimate and the first grant. */
  promptPromised: number
  completionPromised: number
  /** What a crash before the first checkpoint is billed: the prompt is due once it was sent, which follows at once. */
  promptCounted: number
  preview: string | null
}

export type Closing = {
  id: number
  userNumber: number
  keyId: number
  modelId: number
  kind: Kind
  outcome: Outcome
  basis: Basis
  promptTokens: number
  completionTokens: number
  price: TokenPrice
  admittedAfterMs: number
  queueMs: number
  firstTokenMs: number | null
  durationMs: number
  loadUs: number
  promptEvalUs: number
  evalUs: number
}

/** `atMs`: milliseconds since the request's arrival. */
export type Checkpoint = { id: number; promptCounted: number; completionCounted: number; atMs: number }

/** A running request whose state can be kept: asked for it when a group is written, and not before. */
export interface Checkpointed {
  readonly id: number
  checkpoint(): Checkpoint
}

/** One transaction's worth of writes. */
export type Batch = {
  open: Opening[]
  /** All output granted so far, by request. */
  grant: { id: number; completionPromised: number }[]
  /** At most one a request: the last. */
  checkpoint: Checkpoint[]
  close: Closing[]
  /** Keys used, with the instant. */
  keyUse: { keyId: number; atMs: number }[]
  /** What was learnt of a model, as text. */
  learnt: { modelId: number; text: string }[]
}

export interface Ledger {
  /** Resolves when the row is committed; rejects when it could not be (full disk): then nothing was written. */
  open(row: Opening): Promise<void>
  /** Resolves when the new sum of grants is committed. */
  grant(id: number, completionPromised: number): Promise<void>
  /** A checkpoint with the very next group, which is written soon: `committed` then means this one too. */
  checkpoint(request: Checkpointed): void
  /**
   * A checkpoint with a group that others have written, so that one pays for many; `soon`: also when no other comes.
   * Of thousands each group takes some.
   */
  offerCheckpoint(request: Checkpointed, soon: boolean): void
  /** Resolves when what was handed in so far, checkpoints too, is committed; rejects when it could not be. */
  committed(): Promise<void>
  /**
   * Resolves when the row is committed. Rejects when it could not be now; the row is kept and tried again until it is
   * committed, so that nothing is lost.
   */
  close(row: Closing): Promise<void>
  noteKeyUse(keyId: number, atMs: number): void
  noteLearnt(modelId: number, text: string): void
  /** Resolves when everything handed in so far is committed; for the shutdown. */
  drain(): Promise<void>
  /** Rows that could not be committed yet. */
  readonly pending: number
}

export type LedgerDeps = {
  /** One synchronous transaction; throws when it was rolled back. */
  commit: (batch: Batch) => void
  /** Runs `task` after this turn of the event loop (setImmediate), or once the database can take a group. */
  soon: (task: () => void) => void
  /** Runs `task` later, for another try after a failed commit. */
  later: (delayMs: number, task: () => void) => void
  onFault: (error: unknown) => void
}

const emptyBatch = (): Batch => ({ open: [], grant: [], checkpoint: [], close: [], keyUse: [], learnt: [] })

const RETRY_MS = 500
/** A row takes 4 µs: of thousands that are offered no more than so many hold up the event loop at once. */
const CHECKPOINTS_A_GROUP = 256

export const createLedger = (deps: LedgerDeps): Ledger => {
  let batch = emptyBatch()
  let demanded = new Map<number, Checkpointed>()
  /** By request, the longest waiting first. */
  const offered = new Map<number, Checkpointed>()
  /** One promise a group, shared by all who wait for it. */
  let waited: PromiseWithResolvers<void> | undefined
  let scheduled = false
  /** Closings whose group failed: tried again with every later group. */
  let unclosed: Closing[] = []
  let retryScheduled = false

  const schedule = () => {
    if (scheduled) return
    scheduled = true
    deps.soon(flush)
  }

  const scheduleRetry = () => {
    if (retryScheduled) return
    retryScheduled = true
    deps.later(RETRY_MS, () => {
      retryScheduled = false
      schedule()
    })
  }

  const isEmpty = (group: Batch) =>
    group.open.length + group.grant.length + group.checkpoint.length + group.close.length === 0 &&
    group.keyUse.length + group.learnt.length === 0

  const flush = () => {
    scheduled = false
    const group = batch
    const waiting = waited
    for (const [id, request] of demanded) {
      offered.delete(id)
      group.checkpoint.push(request.checkpoint())
    }
    demanded = new Map()
    for (const [id, request] of offered) {
      if (group.checkpoint.length >= CHECKPOINTS_A_GROUP) {
        schedule()
        break
      }
      offered.delete(id)
      group.checkpoint.push(request.checkpoint())
    }
    batch = emptyBatch()
    waited = undefined
    const fresh = group.close
    if (unclosed.length > 0) group.close = unclosed.concat(fresh)
    try {
      if (!isEmpty(group)) deps.commit(group)
    } catch (error) {
      deps.onFault(error)
      unclosed = group.close
      if (unclosed.length > 0) scheduleRetry()
      waiting?.reject(error)
      return
    }
    unclosed = []
    waiting?.resolve()
  }

  const committed = () => {
    schedule()
    waited ??= Promise.withResolvers<void>()
    return waited.promise
  }

  return {
    open(row) {
      batch.open.push(row)
      return committed()
    },
    grant(id, completionPromised) {
      batch.grant.push({ id, completionPromised })
      return committed()
    },
    checkpoint(request) {
      demanded.set(request.id, request)
      schedule()
    },
    offerCheckpoint(request, soon) {
      offered.set(request.id, request)
      if (soon) schedule()
    },
    close(row) {
      demanded.delete(row.id)
      offered.delete(row.id)
      batch.close.push(row)
      return committed()
    },
    noteKeyUse(keyId, atMs) {
      batch.keyUse.push({ keyId, atMs })
      schedule()
    },
    noteLearnt(modelId, text) {
      batch.learnt.push({ modelId, text })
    },
    committed,
    async drain() {
      await committed().catch(deps.onFault)
    },
    get pending() {
      return batch.close.length + unclosed.length
    },
  }
}
