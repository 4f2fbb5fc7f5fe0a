/** What was used: by one user, or by all in buckets of time, or row by row as a file. */
import { Hono } from 'hono'
import { z } from 'zod'
import { invalid } from '../errors.ts'
import type { BucketQuery, BucketWidth, Grouping } from '../store/buckets.ts'
import type { ExportFormat, Reports } from '../store/reports.ts'
import type { Store } from '../store/store.ts'
import { findUser, type UserEnv } from './admin-user.ts'
import type { AppEnv } from './env.ts'
import { toExportStream } from './export.ts'
import { asked, inOrder, outOfOrder, query, rangeFields, toRange } from './query.ts'
import { toLimitsBody } from './user-limits.ts'
import { historyQuery, modelFilter, rangeQuery } from './user-usage.ts'

/** `/admin/users/{id}/usage` and its history. */
export const adminUserUsage = ({ store, reports }: { store: Store; reports: Reports }) => {
  const user = findUser(store)
  return new Hono<UserEnv>()
    .get('/:user_id/usage', user, query(rangeQuery), async c => {
      const { userId, userNumber, limits } = c.get('user')
      const usage = await asked(reports.usage(userNumber, toRange(c.req.valid('query'))))
      return c.json({ user_id: userId, usage, rate_limits: toLimitsBody(userId, limits) })
    })
    .get('/:user_id/usage/history', user, query(historyQuery), async c =>
      c.json(await asked(reports.history(c.get('user').userNumber, c.req.valid('query')))),
    )
}

const HOUR_MS = 3_600_000

const widths = { '1m': '1m', '1h': '1h', '1d': '1d' } as const satisfies { [Width in BucketWidth]: Width }
/** Of each width: its length, and how many of them are shown when the question has no beginning: a page. */
const spans: Record<BucketWidth, { ms: number; count: number }> = {
  '1m': { ms: 60_000, count: 1440 },
  '1h': { ms: HOUR_MS, count: 168 },
  '1d': { ms: 24 * HOUR_MS, count: 31 },
}

const groupings = { user_id: 'user_id', model: 'model', api_key_id: 'api_key_id' } as const satisfies {
  [Name in Grouping]: Name
}
const isGrouping = (word: string): word is Grouping => Object.hasOwn(groupings, word)

/** `a,b`, or the parameter several times. */
const groupingList = z
  .union([z.string(), z.array(z.string())])
  .transform((given, context): Grouping[] => {
    const words = [given].flat().flatMap(text => text.split(',').map(word => word.trim()))
    const known = words.filter(isGrouping)
    if (known.length === words.length) return [...new Set(known)]
    context.addIssue({ code: 'custom', message: `supported values are ${Object.keys(groupings).join(', ')}` })
    return z.NEVER
  })
  .exactOptional()

const bucketsQuery = z
  .strictObject({
    ...rangeFields,
    bucket_width: z.enum(widths).default('1d'),
    group_by: groupingList,
    'group_by[]': groupingList,
    page: z.string().exactOptional(),
  })
  .refine(inOrder, outOfOrder)

/** Without an end it goes to the end of the bucket that `nowMs` lies in; without a beginning it is one page. */
const toBucketQuery = (given: z.output<typeof bucketsQuery>, nowMs: number): BucketQuery => {
  const width = given.bucket_width
  const { ms, count } = spans[width]
  const toMs = given.to ?? (Math.floor(nowMs / ms) + 1) * ms
  const fromMs = given.from ?? Math.max(0, (Math.ceil(toMs / ms) - count) * ms)
  if (fromMs >= toMs) throw invalid('from', "Invalid value for 'from': it lies in the future.")
  return {
    fromMs,
    toMs,
    width,
    groupBy: [...new Set([...(given.group_by ?? []), ...(given['group_by[]'] ?? [])])],
    ...(given.page === undefined ? {} : { page: given.page }),
  }
}

const formats = { csv: 'csv', ndjson: 'ndjson' } as const satisfies { [Format in ExportFormat]: Format }
const contentTypes: Record<ExportFormat, string> = {
  csv: 'text/csv; charset=utf-8; header=present',
  ndjson: 'application/x-ndjson; charset=utf-8',
}

const exportQuery = z
  .strictObject({
    ...rangeFields,
    user_id: z.string().exactOptional(),
    model: modelFilter.exactOptional(),
    format: z.enum(formats).default('csv'),
  })
  .refine(inOrder, outOfOrder)

export type AdminUsageDeps = {
  reports: Reports
  now: () => number
  /** For exports: the rows of a rare model may lie a minute of reading apart. */
  liftTimeout: (request: Request) => void
}

/** `/admin/usage` and `/admin/usage/export`. */
export const adminUsage = ({ reports, now, liftTimeout }: AdminUsageDeps) => {
  /** The number of a user, or of a deleted one by the name that reports give it. */
  const numberOf = async (userId: string) => {
    const userNumber = await reports.userNumber(userId)
    if (userNumber === undefined)
      throw invalid('user_id', "Invalid value for 'user_id': there is no such user.")
    return { userNumber }
  }

  return new Hono<AppEnv>()
    .get('/', query(bucketsQuery), async c => {
      const page = await asked(reports.buckets(toBucketQuery(c.req.valid('query'), now())))
      return c.body(page, 200, { 'content-type': 'application/json' })
    })
    .get('/export', query(exportQuery), async c => {
      const { format, user_id, model, ...range } = c.req.valid('query')
      liftTimeout(c.req.raw)
      const rows = await toExportStream(reports, format, {
        ...toRange(range),
        ...(user_id === undefined ? {} : await numberOf(user_id)),
        ...(model === undefined ? {} : { model }),
      })
      return c.body(rows, 200, {
        'content-type': contentTypes[format],
        'content-disposition': `attachment; filename="usage.${format}"`,
      })
    })
}
