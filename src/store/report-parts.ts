/**
 * What reports are added up from. A range of time is whole cells of a roll-up and, at its edges, single rows; where
 * rows have become hourly sums (see retention.ts), those. A request belongs to the instant of its start.
 *
 * Each part is a select of the same columns, so that a report is one statement over their union.
 */
import { type SQL, sql } from 'drizzle-orm'
import { firstIdAt } from '../ids.ts'
import { toAmount } from '../pricing.ts'
import type { AnyDatabase } from './database.ts'
import { DAY_MS, HOUR_MS } from './rollup.ts'

/** Half-open, in epoch milliseconds. */
export type TimeRange = { fromMs: number; toMs: number }

/** The end of all ids. */
export const END_MS = 2 ** 43

/** A question that cannot be answered: the parameter at fault, and a sentence for the client (a 400). */
export class ReportFault extends Error {
  readonly param: string

  constructor(param: string, message: string) {
    super(message)
    this.name = 'ReportFault'
    this.param = param
  }
}

/** The whole units of a range, as unit numbers, and what is left over at its edges. */
export const splitRange = (
  { fromMs, toMs }: TimeRange,
  unitMs: number,
): { first: number; end: number; edges: TimeRange[] } => {
  const first = Math.ceil(fromMs / unitMs)
  const end = Math.floor(toMs / unitMs)
  if (first >= end) return { first, end: first, edges: fromMs < toMs ? [{ fromMs, toMs }] : [] }
  const edges = [
    { fromMs, toMs: first * unitMs },
    { fromMs: end * unitMs, toMs },
  ]
  return { first, end, edges: edges.filter(edge => edge.fromMs < edge.toMs) }
}

/** The time of which only hourly sums are left: its first and last hour, inclusive in between. */
export const archivedSpan = async (db: AnyDatabase): Promise<TimeRange | undefined> => {
  const [span] = await db.values<[number | null, number | null]>(
    sql`select (select min(hour) from usage_archive), (select max(hour) from usage_archive)`,
  )
  const [first, last] = span ?? [null, null]
  if (first === null || last === null) return undefined
  return { fromMs: first * HOUR_MS, toMs: (last + 1) * HOUR_MS }
}

/** Over rolled-up time a range must be whole hours, as no one knows what is where inside of one. */
export const refuseCutHours = (archived: TimeRange | undefined, range: TimeRange): void => {
  if (archived === undefined) return
  const cuts = (ms: number) => ms > archived.fromMs && ms < archived.toMs && ms % HOUR_MS !== 0
  const until = new Date(archived.toMs).toISOString()
  const message = (name: string) =>
    `'${name}' must be a whole hour: before ${until} only hourly sums are kept.`
  if (cuts(range.fromMs)) throw new ReportFault('from', message('from'))
  if (cuts(range.toMs)) throw new ReportFault('to', message('to'))
}

const sums = ['requests', 'prompt_tokens', 'completion_tokens', 'cost_micro', 'cost_pico', 'gpu_us']
const sumsOfCell = sql.raw(sums.join(', '))
const sumsOfCells = sql.raw(sums.map(name => `sum(${name}) as ${name}`).join(', '))

/** Single rows: those kept, and the hourly sums of those gone. `whose` narrows both. */
export const rowParts = ({ fromMs, toMs }: TimeRange, whose: SQL = sql`true`): SQL[] => [
  sql`select id >> 10 as start_ms, user_number, key_id, model_id, 1 as requests, prompt_tokens, completion_tokens,
        cost_micro, cost_pico, prompt_eval_us + eval_us as gpu_us
      from usage where id >= ${firstIdAt(fromMs)} and id < ${firstIdAt(toMs)} and ${whose}`,
  sql`select hour * ${sql.raw(String(HOUR_MS))} as start_ms, user_number, key_id, model_id, ${sumsOfCell}
      from usage_archive where hour >= ${Math.ceil(fromMs / HOUR_MS)} and hour < ${Math.ceil(toMs / HOUR_MS)} and ${whose}`,
]

/** Whole hours of all users by model. */
export const hourPart = (first: number, end: number): SQL =>
  sql`select hour * ${sql.raw(String(HOUR_MS))} as start_ms, null as user_number, null as key_id, model_id, ${sumsOfCell}
      from usage_by_hour where hour >= ${first} and hour < ${end}`

/**
 * Whole days of all users, by user and model, or by user alone: summed up in the order in which the cells lie, which
 * is half the work of sorting all of them.
 */
export const dayPart = (first: number, end: number, byModel: boolean): SQL => {
  const of = sql`from usage_by_day where day >= ${first} and day < ${end}`
  const cell = sql`select day * ${sql.raw(String(DAY_MS))} as start_ms, user_number, null as key_id`
  return byModel
    ? sql`${cell}, model_id, ${sumsOfCell} ${of}`
    : sql`${cell}, null as model_id, ${sumsOfCells} ${of} group by day, user_number`
}

/** Whole days of one user: one seek a day, as the roll-up is led by the day. */
export const userDayPart = (first: number, end: number, userNumber: number): SQL =>
  sql`select * from (
        with recursive days(day) as (
          select max(${first}, (select min(day) from usage_by_day))
          union all
          select day + 1 from days where day + 1 < min(${end}, (select max(day) + 1 from usage_by_day)))
        select cell.day * ${sql.raw(String(DAY_MS))} as start_ms, user_number, null as key_id, model_id, ${sumsOfCell}
        from days cross join usage_by_day as cell
        where cell.day = days.day and cell.day < ${end} and cell.user_number = ${userNumber})`

/** The whole life of one user. */
export const userPart = (userNumber: number): SQL =>
  sql`select 0 as start_ms, user_number, null as key_id, model_id, ${sumsOfCell}
      from usage_by_user where user_number = ${userNumber}`

export const union = (parts: SQL[]): SQL => sql.join(parts, sql` union all `)

/** Sums of cells or rows; money as text, since it can pass 2^53. Read by `toSums`. */
export const sumColumns = sql.raw(
  `sum(requests) as requests, sum(prompt_tokens) as prompt_tokens, sum(completion_tokens) as completion_tokens,
   cast(sum(cost_micro) as text) as micro, cast(sum(cost_pico) as text) as pico, sum(gpu_us) as gpu_us`,
)
export type SumRow = [
  requests: number,
  promptTokens: number,
  completionTokens: number,
  micro: string,
  pico: string,
  gpuUs: number,
]

export type Sums = {
  requests: number
  promptTokens: number
  completionTokens: number
  micro: bigint
  pico: bigint
  gpuUs: number
}

export const toSums = (row: SumRow): Sums => ({
  requests: row[0],
  promptTokens: row[1],
  completionTokens: row[2],
  micro: BigInt(row[3]),
  pico: BigInt(row[4]),
  gpuUs: row[5],
})

export const addSums = (a: Sums, b: Sums): Sums => ({
  requests: a.requests + b.requests,
  promptTokens: a.promptTokens + b.promptTokens,
  completionTokens: a.completionTokens + b.completionTokens,
  micro: a.micro + b.micro,
  pico: a.pico + b.pico,
  gpuUs: a.gpuUs + b.gpuUs,
})

export const noSums: Sums = {
  requests: 0,
  promptTokens: 0,
  completionTokens: 0,
  micro: 0n,
  pico: 0n,
  gpuUs: 0,
}

/** The five numbers of every usage object. */
export type Totals = {
  total_tokens: number
  prompt_tokens: number
  completion_tokens: number
  request_count: number
  total_cost: number
}

export const toTotals = (sums: Sums): Totals => ({
  total_tokens: sums.promptTokens + sums.completionTokens,
  prompt_tokens: sums.promptTokens,
  completion_tokens: sums.completionTokens,
  request_count: sums.requests,
  total_cost: toAmount(sums.micro, sums.pico),
})
