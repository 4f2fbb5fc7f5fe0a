/** Single closed requests: pages of a user's history, newest first, and pages of an export, oldest first. */
import { type SQL, sql } from 'drizzle-orm'
import { firstIdAt, startedMs, toCompletionId, toKeyId, toRequestId } from '../ids.ts'
import { toAmount } from '../pricing.ts'
import type { AnyDatabase } from './database.ts'
import { type Basis, bases, kinds, type Outcome, outcomes } from './ledger.ts'
import { END_MS, type TimeRange } from './report-parts.ts'

export type HistoryRow = {
  id: string
  request_id: string
  model: string
  prompt_tokens: number
  completion_tokens: number
  total_tokens: number
  cost: number
  outcome: Outcome
  basis: Basis
  started_at: string
  ended_at: string
  first_token_ms: number | null
  duration_ms: number
  api_key_id: string
  prompt_preview: string | null
}

export type HistoryQuery = {
  limit: number
  /** The number in the last id seen (see parseCompletionId). */
  after?: number
  /** Canonical. */
  model?: string
  outcome?: Outcome
}

/** `last_id` may be a row that the filter left out: where the walk stopped, and the next page goes on. */
export type HistoryPage = { object: 'list'; data: HistoryRow[]; has_more: boolean; last_id: string | null }

/** So many rows are looked at for one page: a filter that matches nothing must not read a million. */
export const WALKED_MAX = 5000

type Row = [
  walkedTo: number | null,
  id: number | null,
  userId: string,
  kind: number,
  keyId: number,
  model: string,
  promptTokens: number,
  completionTokens: number,
  costMicro: number,
  costPico: number,
  outcome: number,
  basis: number,
  firstTokenMs: number | null,
  durationMs: number,
  preview: string | null,
]

type Walk = { where: SQL; order: SQL; rowsMax: number; filter: SQL; limit: number }
type Found = { id: number; userId: string; row: HistoryRow }

/**
 * Looks at `rowsMax` rows in id order and returns the first `limit` of those that pass the filter, and where the walk
 * stopped (undefined: at the end of the rows). One statement, so that rows that come meanwhile cannot shift it.
 */
const walk = async (
  db: AnyDatabase,
  { where, order, rowsMax, filter, limit }: Walk,
): Promise<{ found: Found[]; walkedTo: number | undefined }> => {
  const rows = await db.values<Row>(sql`
    select stop.id, found.* from
      (select (select id from usage where ${where} order by id ${order} limit 1 offset ${rowsMax - 1}) as id) as stop
    left join (
      select walked.id as id, coalesce(users.user_id, 'deleted-' || walked.user_number), walked.kind, walked.key_id,
        models.name, walked.prompt_tokens, walked.completion_tokens, walked.cost_micro, walked.cost_pico,
        walked.outcome, walked.basis, walked.first_token_ms, walked.duration_ms, prompt_previews.text
      from (select * from usage where ${where} order by id ${order} limit ${rowsMax}) as walked
      join models on models.id = walked.model_id
      left join users on users.number = walked.user_number
      left join prompt_previews on prompt_previews.id = walked.id
      where ${filter} order by walked.id ${order} limit ${limit}) as found
    on true order by found.id ${order}`)
  const found = rows.flatMap(row => toFound(row) ?? [])
  return { found, walkedTo: rows[0]?.[0] ?? undefined }
}

const toFound = (row: Row): Found | undefined => {
  const [
    ,
    id,
    userId,
    kind,
    keyId,
    model,
    prompt,
    completion,
    micro,
    pico,
    outcome,
    basis,
    first,
    duration,
    text,
  ] = row
  if (id === null) return undefined
  const started = startedMs(id)
  return {
    id,
    userId,
    row: {
      id: toCompletionId(kinds[kind] ?? 'chat', id),
      request_id: toRequestId(id),
      model,
      prompt_tokens: prompt,
      completion_tokens: completion,
      total_tokens: prompt + completion,
      cost: toAmount(micro, pico),
      outcome: outcomes[outcome] ?? 'failed',
      basis: bases[basis] ?? 'counted',
      started_at: new Date(started).toISOString(),
      ended_at: new Date(started + duration).toISOString(),
      first_token_ms: first,
      duration_ms: duration,
      api_key_id: toKeyId(keyId),
      prompt_preview: text,
    },
  }
}

const ascending = sql.raw('asc')
const descending = sql.raw('desc')

export const readHistory = async (
  db: AnyDatabase,
  userNumber: number,
  { limit, after, model, outcome }: HistoryQuery,
): Promise<HistoryPage> => {
  const filtered = model !== undefined || outcome !== undefined
  const ofModel = model === undefined ? sql`true` : sql`models.name = ${model}`
  const ofOutcome = outcome === undefined ? sql`true` : sql`walked.outcome = ${outcomes.indexOf(outcome)}`
  const { found, walkedTo } = await walk(db, {
    where: sql`user_number = ${userNumber} and id < ${after ?? firstIdAt(END_MS)}`,
    order: descending,
    rowsMax: filtered ? WALKED_MAX : limit + 1,
    filter: sql`${ofModel} and ${ofOutcome}`,
    limit: limit + 1,
  })
  const shown = found.slice(0, limit)
  const more = found.length > limit
  const stoppedEarly = !more && walkedTo !== undefined
  const last = stoppedEarly ? toCompletionId('chat', walkedTo) : shown.at(-1)?.row.id
  return {
    object: 'list',
    data: shown.map(({ row }) => row),
    has_more: more || stoppedEarly,
    last_id: last ?? null,
  }
}

export type ExportQuery = Partial<TimeRange> & { userNumber?: number; model?: string }
export type ExportRow = { user_id: string } & HistoryRow

/** Rows of one page of an export: about a megabyte as text. */
const EXPORT_ROWS = 2000

/** The rows after the number `after`, oldest first; `next` is what to ask with again, undefined at the end. */
export const readExport = async (
  db: AnyDatabase,
  { fromMs, toMs, userNumber, model }: ExportQuery,
  after: number | undefined,
): Promise<{ rows: ExportRow[]; next: number | undefined }> => {
  const first = after === undefined ? firstIdAt(fromMs ?? 0) : after + 1
  const end = firstIdAt(Math.min(toMs ?? END_MS, END_MS))
  const whose = userNumber === undefined ? sql`true` : sql`user_number = ${userNumber}`
  const { found, walkedTo } = await walk(db, {
    where: sql`id >= ${first} and id < ${end} and ${whose}`,
    order: ascending,
    rowsMax: EXPORT_ROWS,
    filter: model === undefined ? sql`true` : sql`models.name = ${model}`,
    limit: EXPORT_ROWS,
  })
  return { rows: found.map(({ userId, row }) => ({ user_id: userId, ...row })), next: walkedTo }
}

/** The number behind a user id as reports show it: of a user, or of a deleted one (`deleted-<number>`). */
export const readUserNumber = async (db: AnyDatabase, userId: string): Promise<number | undefined> => {
  const [living] = await db.values<[number]>(sql`select number from users where user_id = ${userId}`)
  if (living !== undefined) return living[0]
  const digits = /^deleted-([1-9][0-9]{0,14})$/.exec(userId)?.[1]
  if (digits === undefined) return undefined
  const [deleted] = await db.values<[number]>(
    sql`select number from user_numbers where number = ${Number(digits)} and deleted_at is not null`,
  )
  return deleted?.[0]
}
