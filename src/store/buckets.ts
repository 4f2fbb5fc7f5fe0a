/** `GET /admin/usage`: usage in buckets of time, grouped. */
import { type SQL, sql } from 'drizzle-orm'
import { toKeyId } from '../ids.ts'
import type { AnyDatabase } from './database.ts'
import {
  archivedSpan,
  dayPart,
  hourPart,
  ReportFault,
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
} from './report-parts.ts'
import { DAY_MS, HOUR_MS, MINUTE_MS } from './rollup.ts'

export const bucketWidths = ['1m', '1h', '1d'] as const
export type BucketWidth = (typeof bucketWidths)[number]
export const groupings = ['user_id', 'model', 'api_key_id'] as const
export type Grouping = (typeof groupings)[number]

const widthMs: Record<BucketWidth, number> = { '1m': MINUTE_MS, '1h': HOUR_MS, '1d': DAY_MS }
/** The most buckets of a page. */
export const bucketsMax: Record<BucketWidth, number> = { '1m': 1440, '1h': 168, '1d': 31 }

export type BucketQuery = TimeRange & {
  width: BucketWidth
  groupBy: readonly Grouping[]
  /** `next_page` of the page before. */
  page?: string
}

export type BucketResult = Totals & {
  gpu_seconds: number
  user_id?: string
  model?: string
  api_key_id?: string
}

export type BucketPage = {
  object: 'page'
  /** Every bucket of the range, empty ones included; the first and the last are cut where the range is. */
  data: { start_time: string; end_time: string; results: BucketResult[] }[]
  has_more: boolean
  next_page: string | null
}

/** Where the page begins: its token is the first bucket's start, which lies on a bucket's edge inside the range. */
const pageStart = ({ fromMs, toMs, width, page }: BucketQuery): number => {
  if (page === undefined) return fromMs
  const startMs = /^[0-9]{1,15}$/.test(page) ? Number(page) : Number.NaN
  if (startMs > fromMs && startMs < toMs && startMs % widthMs[width] === 0) return startMs
  throw new ReportFault('page', "'page' must be the 'next_page' of a page with the same parameters.")
}

/** The cheapest source that knows the groups: hours by model, days by user and model, or the rows. */
const partsOf = (range: TimeRange, width: BucketWidth, groupBy: readonly Grouping[]): SQL[] => {
  const byUser = groupBy.includes('user_id')
  const byKey = groupBy.includes('api_key_id')
  const fromHours = !byUser && !byKey && width !== '1m'
  const fromDays = byUser && !byKey && width === '1d'
  if (!fromHours && !fromDays) return rowParts(range)
  const { first, end, edges } = splitRange(range, fromHours ? HOUR_MS : DAY_MS)
  const rows = edges.flatMap(edge => rowParts(edge))
  if (first >= end) return rows
  return [fromHours ? hourPart(first, end) : dayPart(first, end, groupBy.includes('model')), ...rows]
}

/** One page of buckets, aligned to UTC. */
export const readBuckets = async (db: AnyDatabase, query: BucketQuery): Promise<BucketPage> => {
  const { width, toMs } = query
  const unitMs = widthMs[width]
  const fromMs = pageStart(query)
  const firstBucket = Math.floor(fromMs / unitMs)
  const endMs = Math.min(toMs, (firstBucket + bucketsMax[width]) * unitMs)
  const range = { fromMs, toMs: endMs }
  const archived = await archivedSpan(db)
  refuseCutHours(archived, range)
  if (width === '1m' && archived !== undefined && fromMs < archived.toMs && endMs > archived.fromMs)
    throw new ReportFault(
      'bucket_width',
      `'bucket_width' must be 1h or 1d before ${new Date(archived.toMs).toISOString()}: only hourly sums are kept of that time.`,
    )

  const results = new Map<number, BucketResult[]>()
  for (const [bucket, userId, model, keyId, ...row] of await readCells(db, range, query)) {
    const sums = toSums(row)
    const result: BucketResult = {
      ...(userId === null ? {} : { user_id: userId }),
      ...(model === null ? {} : { model }),
      ...(keyId === null ? {} : { api_key_id: toKeyId(keyId) }),
      ...toTotals(sums),
      gpu_seconds: sums.gpuUs / 1_000_000,
    }
    const others = results.get(bucket)
    if (others === undefined) results.set(bucket, [result])
    else others.push(result)
  }
  const data: BucketPage['data'] = []
  for (let bucket = firstBucket; bucket * unitMs < endMs; bucket++)
    data.push({
      start_time: new Date(Math.max(fromMs, bucket * unitMs)).toISOString(),
      end_time: new Date(Math.min(endMs, (bucket + 1) * unitMs)).toISOString(),
      results: results.get(bucket) ?? [],
    })
  const more = endMs < toMs
  return { object: 'page', data, has_more: more, next_page: more ? String(endMs) : null }
}

type Cell = [bucket: number, userId: string | null, model: string | null, keyId: number | null, ...SumRow]

const readCells = async (
  db: AnyDatabase,
  range: TimeRange,
  { width, groupBy }: BucketQuery,
): Promise<Cell[]> => {
  const parts = partsOf(range, width, groupBy)
  if (parts.length === 0) return []
  const column = (grouping: Grouping, name: string) =>
    groupBy.includes(grouping) ? sql.raw(name) : sql`null`
  return await db.values<Cell>(sql`
    select bucket, case when cells.user_number is null then null else coalesce(users.user_id, 'deleted-' || cells.user_number) end,
      models.name, cells.key_id, requests, prompt_tokens, completion_tokens, micro, pico, gpu_us
    from (
      select start_ms / ${sql.raw(String(widthMs[width]))} as bucket, ${column('user_id', 'user_number')} as user_number,
        ${column('model', 'model_id')} as model_id, ${column('api_key_id', 'key_id')} as key_id,
        ${sumColumns}
      from (${union(parts)}) as parts group by 1, 2, 3, 4) as cells
    left join users on users.number = cells.user_number
    left join models on models.id = cells.model_id
    order by bucket, cells.user_number, models.name, cells.key_id`)
}
