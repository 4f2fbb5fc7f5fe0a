/** The database file itself, read beside the running proxy. */
import { Database } from 'bun:sqlite'
import { startedMs, toCompletionId, toRequestId } from '../src/ids.ts'
import { type Basis, bases, type Kind, kinds, type Outcome, outcomes } from '../src/store/ledger.ts'

export type Row = {
  id: number
  userId: string
  userNumber: number
  model: string
  kind: Kind
  outcome: Outcome
  basis: Basis
  prompt: number
  completion: number
  /** In 10^-12 units. */
  cost: bigint
  startedMs: number
  admittedMs: number
  endedMs: number
  /** `promptEvalUs + evalUs`. */
  gpuUs: bigint
  preview: string | null
  requestId: string
  completionId: string
}

type Stored = {
  id: number
  user_id: string
  user_number: number
  name: string
  kind: number
  outcome: number
  basis: number
  prompt_tokens: number
  completion_tokens: number
  cost_micro: number
  cost_pico: number
  admitted_after_ms: number
  duration_ms: number
  gpu_us: number
  text: string | null
}

/** One cell of a roll-up; `key` as rows would be grouped. */
export type Cell = {
  key: string
  requests: bigint
  prompt: bigint
  completion: bigint
  cost: bigint
  gpuUs: bigint
}

type StoredCell = Record<
  'requests' | 'prompt_tokens' | 'completion_tokens' | 'cost_micro' | 'cost_pico' | 'gpu_us',
  bigint
> & { key: string }

const toPico = (micro: number | bigint, pico: number | bigint): bigint =>
  BigInt(micro) * 1_000_000n + BigInt(pico)

const toRow = (stored: Stored): Row => {
  const kind = kinds[stored.kind] ?? 'chat'
  const started = startedMs(stored.id)
  return {
    id: stored.id,
    userId: stored.user_id,
    userNumber: stored.user_number,
    model: stored.name,
    kind,
    outcome: outcomes[stored.outcome] ?? 'failed',
    basis: bases[stored.basis] ?? 'counted',
    prompt: stored.prompt_tokens,
    completion: stored.completion_tokens,
    cost: toPico(stored.cost_micro, stored.cost_pico),
    startedMs: started,
    admittedMs: started + stored.admitted_after_ms,
    endedMs: started + stored.duration_ms,
    gpuUs: BigInt(stored.gpu_us),
    preview: stored.text,
    requestId: toRequestId(stored.id),
    completionId: toCompletionId(kind, stored.id),
  }
}

const rollUps = {
  usage_by_user: "user_number || '/' || name",
  usage_by_hour: "hour || '/' || name",
  usage_by_day: "day || '/' || user_number || '/' || name",
} as const
export type RollUp = keyof typeof rollUps
export const rollUpNames = Object.keys(rollUps) as RollUp[]

export const openLedger = (path: string) => {
  const read = <T>(act: (db: Database) => T): T => {
    const db = new Database(path, { readwrite: true })
    try {
      db.run('pragma busy_timeout = 5000')
      return act(db)
    } finally {
      db.close()
    }
  }

  return {
    rows: (): Row[] =>
      read(db =>
        db
          .query<Stored, []>(
            `select usage.*, prompt_eval_us + eval_us as gpu_us, models.name, users.user_id, prompt_previews.text from usage
             join models on models.id = usage.model_id left join users on users.number = usage.user_number
             left join prompt_previews on prompt_previews.id = usage.id order by usage.id`,
          )
          .all()
          .map(toRow),
      ),
    /** Requests that are open now. */
    open: (): number =>
      read(
        db =>
          db.query<{ count: number }, []>('select count(*) as count from open_requests').get()?.count ?? 0,
      ),
    rollUp: (name: RollUp): Cell[] =>
      read(db => {
        const query = db.query<StoredCell, []>(
          `select ${rollUps[name]} as key, requests, prompt_tokens, completion_tokens, cost_micro, cost_pico, gpu_us
           from ${name} join models on models.id = model_id`,
        )
        query.safeIntegers(true)
        return query.all().map(cell => ({
          key: cell.key,
          requests: cell.requests,
          prompt: cell.prompt_tokens,
          completion: cell.completion_tokens,
          cost: toPico(cell.cost_micro, cell.cost_pico),
          gpuUs: cell.gpu_us,
        }))
      }),
    /** `ok`, or what SQLite found. */
    integrity: (): string =>
      read(db =>
        db
          .query<{ integrity_check: string }, []>('pragma integrity_check')
          .all()
          .map(({ integrity_check }) => integrity_check)
          .join('; '),
      ),
  }
}
