/** Every report and every roll-up against the rows. */
import { startedMs } from '../src/ids.ts'
import type { Account, Admin } from './accounts.ts'
import { type openLedger, type RollUp, type Row, rollUpNames } from './ledger.ts'
import type { Scorecard } from './scorecard.ts'
import { field, list } from './sse.ts'
import { cellDifference, difference, groupBy, rowDifference, sumOf, toMoney } from './sums.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 86_400_000

const rollUpKeys: Record<RollUp, (row: Row) => string> = {
  usage_by_user: row => `${row.userNumber}/${row.model}`,
  usage_by_hour: row => `${Math.floor(startedMs(row.id) / HOUR_MS)}/${row.model}`,
  usage_by_day: row => `${Math.floor(startedMs(row.id) / DAY_MS)}/${row.userNumber}/${row.model}`,
}

export type ReportDeps = {
  url: string
  admin: Admin
  adminKey: string
  accounts: readonly Account[]
  ledger: ReturnType<typeof openLedger>
  rows: readonly Row[]
  scorecard: Scorecard
}

const checkRollUps = ({ ledger, rows, scorecard }: ReportDeps) => {
  for (const name of rollUpNames) {
    const groups = groupBy(rows, rollUpKeys[name])
    const check = scorecard.check(`${name} equals the rows`)
    const cells = ledger.rollUp(name)
    for (const cell of cells) check.note(cellDifference(cell, groups.get(cell.key) ?? []))
    const same = cells.length === groups.size
    check.note(same ? undefined : `${cells.length} cells for ${groups.size} groups of rows`)
  }
}

const readText = async ({ url }: ReportDeps, path: string, key: string) => {
  const answer = await fetch(url + path, { headers: { authorization: `Bearer ${key}` } })
  return answer.text()
}

const readJson = async (deps: ReportDeps, path: string, key: string): Promise<unknown> =>
  JSON.parse(await readText(deps, path, key))

const checkUsage = ({ scorecard }: ReportDeps, title: string, usage: unknown, own: readonly Row[]) => {
  const check = scorecard.check(`${title} equals the rows`)
  check.note(difference(usage, own))
  const models = groupBy(own, row => row.model)
  for (const [model, group] of models) check.note(difference(field(field(usage, 'by_model'), model), group))
}

const checkHistory = async (deps: ReportDeps, { userId, keys }: Account, own: readonly Row[]) => {
  const check = deps.scorecard.check('history pages equal the rows')
  const left = new Map(own.map(row => [row.completionId, row]))
  let query = '?limit=100'
  for (let before: string | undefined; ; ) {
    const page = await readJson(deps, `/v1/usage/history${query}`, keys[0] ?? '')
    for (const shown of list(field(page, 'data'))) {
      const id = String(field(shown, 'id'))
      check.note(rowDifference(shown, left.get(id)))
      left.delete(id)
      // The digits are the same width for all kinds of completions, and sort as the rows do.
      const digits = id.slice(-20)
      if (before !== undefined && digits >= before) check.note(`${id} does not stand after ${before}`)
      before = digits
    }
    if (field(page, 'has_more') !== true) break
    query = `?limit=100&after=${field(page, 'last_id')}`
  }
  check.note(left.size === 0 ? undefined : `${left.size} rows of ${userId} are on no page`)
}

const checkAccount = async (deps: ReportDeps, account: Account, own: readonly Row[]) => {
  const { admin, scorecard } = deps
  const [key = ''] = account.keys
  checkUsage(deps, '/v1/usage', await readJson(deps, '/v1/usage', key), own)
  const summary = await readJson(deps, '/v1/usage/summary', key)
  const { prompt, completion, cost } = sumOf(own)
  const tokens = field(summary, 'total_tokens') === prompt + completion
  const same = tokens && field(summary, 'total_cost') === toMoney(cost)
  scorecard.check('/v1/usage/summary equals the rows').note(same ? undefined : JSON.stringify(summary))
  const path = `/admin/users/${account.userId}/usage`
  const usageOf = async (range: string) => field((await admin(path + range)).body, 'usage')
  checkUsage(deps, '/admin/users/{id}/usage', await usageOf(''), own)
  const middle = own[Math.floor(own.length / 2)]?.startedMs
  if (middle !== undefined) {
    const at = new Date(middle).toISOString()
    const earlier = own.filter(row => row.startedMs < middle)
    const later = own.filter(row => row.startedMs >= middle)
    checkUsage(deps, 'a range to an instant', await usageOf(`?to=${at}`), earlier)
    checkUsage(deps, 'a range from an instant', await usageOf(`?from=${at}`), later)
  }
  await checkHistory(deps, account, own)
}

const checkBuckets = async ({ admin, rows, scorecard }: ReportDeps, width: string) => {
  const check = scorecard.check(`/admin/usage by ${width}, user and model equals the rows`)
  const toHour = (ms: number) => new Date(Math.floor(ms / HOUR_MS) * HOUR_MS).toISOString()
  const from = toHour(rows[0]?.startedMs ?? 0)
  const to = toHour((rows.at(-1)?.startedMs ?? 0) + HOUR_MS)
  const path = `/admin/usage?from=${from}&to=${to}&bucket_width=${width}&group_by=user_id,model`
  const groups = groupBy(rows, row => `${row.userId}/${row.model}`)
  const found = new Map<string, number>()

  const checkBucket = (bucket: unknown) => {
    const start = Date.parse(String(field(bucket, 'start_time')))
    const end = Date.parse(String(field(bucket, 'end_time')))
    for (const result of list(field(bucket, 'results'))) {
      const key = `${field(result, 'user_id')}/${field(result, 'model')}`
      const group = groups.get(key) ?? []
      const inBucket = group.filter(({ startedMs }) => startedMs >= start && startedMs < end)
      check.note(difference(result, inBucket))
      found.set(key, (found.get(key) ?? 0) + Number(field(result, 'request_count')))
    }
  }

  for (let page = ''; ; ) {
    const { body } = await admin(path + page)
    for (const bucket of list(field(body, 'data'))) checkBucket(bucket)
    if (field(body, 'has_more') !== true) break
    page = `&page=${field(body, 'next_page')}`
  }
  for (const [key, { length }] of groups) {
    const shown = found.get(key) ?? 0
    check.note(shown === length ? undefined : `${key}: ${shown} requests in all buckets, ${length} rows`)
  }
}

const checkExport = async (deps: ReportDeps) => {
  const { rows, adminKey, scorecard } = deps
  const check = scorecard.check('the export equals the rows')
  const readLines = async (format: string) =>
    (await readText(deps, `/admin/usage/export?format=${format}`, adminKey)).trim().split('\n')
  const lines = await readLines('ndjson')
  check.note(lines.length === rows.length ? undefined : `${lines.length} lines, ${rows.length} rows`)
  for (const [index, line] of lines.entries()) {
    const shown: unknown = JSON.parse(line)
    const row = rows[index]
    const owner = field(shown, 'user_id') === row?.userId ? undefined : `${line} is another user's`
    check.note(rowDifference(shown, row) ?? owner)
  }
  const csv = await readLines('csv')
  check.note(csv.length - 1 === rows.length ? undefined : `${csv.length} lines of CSV, ${rows.length} rows`)
}

/** To be called while nothing is in flight. */
export const checkReports = async (deps: ReportDeps): Promise<void> => {
  checkRollUps(deps)
  const byUser = groupBy(deps.rows, row => row.userId)
  for (const account of deps.accounts) await checkAccount(deps, account, byUser.get(account.userId) ?? [])
  for (const width of ['1m', '1h', '1d']) await checkBuckets(deps, width)
  await checkExport(deps)
}
