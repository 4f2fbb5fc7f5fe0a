/** What users used: over their life, or in a range of time. */
import { sql } from 'drizzle-orm'
import type { AnyDatabase } from './database.ts'
import {
  addSums,
  archivedSpan,
  END_MS,
  noSums,
  refuseCutHours,
  rowParts,
  type SumRow,
  splitRange,
  sumColumns,
  type TimeRange,
  type Totals,
  toSums,
  toTotals,
  union,
  userDayPart,
  userPart,
} from './report-parts.ts'
import { DAY_MS } from './rollup.ts'

export type Usage = Totals & {
  by_model: Record<string, Totals>
  /** Models that were used and have no price now. */
  unpriced: string[]
}

const partsOf = (userNumber: number, { fromMs, toMs }: TimeRange) => {
  const { first, end, edges } = splitRange({ fromMs, toMs }, DAY_MS)
  const parts = edges.flatMap(edge => rowParts(edge, sql`user_number = ${userNumber}`))
  return first < end ? [userDayPart(first, end, userNumber), ...parts] : parts
}

/** One user's usage; of all time (one look-up) where neither bound is given. */
export const readUsage = async (
  db: AnyDatabase,
  userNumber: number,
  bounds: Partial<TimeRange>,
): Promise<Usage> => {
  const ever = bounds.fromMs === undefined && bounds.toMs === undefined
  const range = { fromMs: bounds.fromMs ?? 0, toMs: Math.min(bounds.toMs ?? END_MS, END_MS) }
  if (!ever) refuseCutHours(await archivedSpan(db), range)
  const parts = ever ? [userPart(userNumber)] : partsOf(userNumber, range)
  const byModel: [string, Totals][] = []
  const unpriced: string[] = []
  let all = noSums
  if (parts.length > 0) {
    const rows = await db.values<[model: string, priced: number, ...SumRow]>(sql`
      select models.name, prices.model is not null, ${sumColumns}
      from (${union(parts)}) as parts
      join models on models.id = parts.model_id left join prices on prices.model = models.name
      group by parts.model_id order by models.name`)
    for (const [model, priced, ...row] of rows) {
      const sums = toSums(row)
      all = addSums(all, sums)
      byModel.push([model, toTotals(sums)])
      if (priced === 0) unpriced.push(model)
    }
  }
  return { ...toTotals(all), by_model: Object.fromEntries(byModel), unpriced }
}

/** The lifetime totals of some users, by number, for a page of the users' list; zeros for those who used nothing. */
export const readTotals = async (
  db: AnyDatabase,
  userNumbers: readonly number[],
): Promise<Map<number, Totals>> => {
  const totals = new Map(userNumbers.map(number => [number, toTotals(noSums)]))
  if (userNumbers.length === 0) return totals
  const numbers = sql.join(
    userNumbers.map(number => sql`${number}`),
    sql`, `,
  )
  const rows = await db.values<[userNumber: number, ...SumRow]>(
    sql`select user_number, ${sumColumns} from usage_by_user where user_number in (${numbers}) group by user_number`,
  )
  for (const [userNumber, ...row] of rows) totals.set(userNumber, toTotals(toSums(row)))
  return totals
}
