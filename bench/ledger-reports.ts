/** What the usage endpoints of a running proxy take, one question at a time. */
import { Database } from 'bun:sqlite'
import { firstIdAt, toCompletionId } from '../src/ids.ts'
import { modelName, nowMs, userId, userKey, year } from './ledger-rows.ts'
import { residentBytes } from './process.ts'
import { median, toTable } from './report.ts'
import type { ProxyServer } from './servers.ts'

/** For people: a whole number with its thousands set apart. */
export const whole = (value: number) => Math.round(value).toLocaleString('en-US')
/** Milliseconds, with a digit more where they are few. */
export const ms = (value: number) => value.toFixed(value < 10 ? 1 : 0)

/** One query of a database that may be in use. */
export const read = (path: string, query: string) => {
  const sqlite = new Database(path, { readonly: true })
  try {
    return sqlite.query(query).values()
  } finally {
    sqlite.close()
  }
}

const DAY_MS = 86_400_000
const today = Math.floor(nowMs / DAY_MS) * DAY_MS
/** Neither among the busiest nor among the quietest. */
const middle = 500

export type Question = { title: string; path: string; user?: number; target: boolean }

export const questions = (): Question[] => {
  const at = (dayFromToday: number) => new Date(today + dayFromToday * DAY_MS).toISOString()
  const month = `from=${at(-40)}&to=${at(-10)}`
  const cut = `from=${new Date(today - 40 * DAY_MS + 12_345_678).toISOString()}&to=${new Date(today - 10 * DAY_MS + 45_678_901).toISOString()}`
  const old = toCompletionId('chat', firstIdAt(nowMs - 180 * DAY_MS))
  const oldest = toCompletionId('chat', firstIdAt(nowMs - 364 * DAY_MS))
  const ofUsers = (title: string, path: string, target = true) => [
    { title: `${title}, heaviest user`, path, user: 1, target },
    { title: `${title}, middle user`, path, user: middle, target },
  ]
  return [
    ...ofUsers('/v1/usage', '/v1/usage'),
    ...ofUsers('/v1/usage of a month', `/v1/usage?${month}`),
    ...ofUsers('/v1/usage of a month with cut days', `/v1/usage?${cut}`),
    ...ofUsers('/v1/usage/summary', '/v1/usage/summary'),
    ...ofUsers('history, first page', '/v1/usage/history?limit=100'),
    ...ofUsers('history, half a year back', `/v1/usage/history?limit=100&after=${old}`),
    {
      title: 'history, its end, heaviest user',
      path: `/v1/usage/history?limit=100&after=${oldest}`,
      user: 1,
      target: true,
    },
    ...ofUsers('history of a rare model', `/v1/usage/history?limit=100&model=${modelName(year.models)}`),
    ...ofUsers('history of an outcome that nobody has', '/v1/usage/history?limit=100&outcome=failed'),
    {
      title: '/admin/usage, month by day and model',
      path: `/admin/usage?${month}&bucket_width=1d&group_by=model`,
      target: true,
    },
    { title: '/admin/usage, month by day', path: `/admin/usage?${month}&bucket_width=1d`, target: true },
    {
      title: '/admin/usage, week by hour and model',
      path: `/admin/usage?from=${at(-40)}&to=${at(-33)}&bucket_width=1h&group_by=model`,
      target: true,
    },
    {
      title: '/admin/usage, day by minute and model',
      path: `/admin/usage?from=${at(-40)}&to=${at(-39)}&bucket_width=1m&group_by=model`,
      target: false,
    },
    {
      title: '/admin/usage, month by day, user',
      path: `/admin/usage?${month}&bucket_width=1d&group_by=user_id`,
      target: false,
    },
    {
      title: '/admin/usage, month by day, user, model',
      path: `/admin/usage?${month}&bucket_width=1d&group_by=user_id,model`,
      target: false,
    },
    {
      title: '/admin/usage, month by day and key',
      path: `/admin/usage?${month}&bucket_width=1d&group_by=api_key_id`,
      target: false,
    },
    { title: '/admin/users, a page', path: '/admin/users?limit=100', target: true },
    { title: '/admin/users/…/usage, heaviest user', path: `/admin/users/${userId(1)}/usage`, target: true },
  ]
}

export const ask = async (proxy: ProxyServer, { path, user }: Question): Promise<number> => {
  const key = user === undefined ? proxy.adminKey : userKey(user)
  const began = performance.now()
  const answer = await fetch(`http://127.0.0.1:${proxy.port}${path}`, {
    headers: { authorization: `Bearer ${key}` },
  })
  const text = await answer.text()
  if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${text}`)
  return performance.now() - began
}

/** The time of each report, asked `rounds` times. */
export const measureReports = async (proxy: ProxyServer, rounds: number): Promise<string> => {
  const table: string[][] = []
  for (const question of questions()) {
    const [first = 0, ...others] = await Array.fromAsync({ length: rounds + 1 }, () => ask(proxy, question))
    const sorted = others.toSorted((a, b) => a - b)
    const slow = question.target && median(others) >= 100 ? ' **over 100**' : ''
    table.push([question.title, `${ms(median(others))}${slow}`, ms(sorted.at(-1) ?? 0), ms(first)])
  }
  return `## Reports\n\nThrough HTTP, ${rounds} times each after a first one.\n\n${toTable(['ms', 'median', 'worst', 'first'], table)}`
}

/** Reads an export as it comes: its lines, and the proxy's memory meanwhile. */
export const measureExport = async (proxy: ProxyServer): Promise<string> => {
  const resident = () => residentBytes(proxy.pid ?? 0) ?? Number.NaN
  const before = resident()
  const seen: number[] = []
  const watch = setInterval(() => seen.push(resident()), 100)
  const began = performance.now()
  const answer = await fetch(`http://127.0.0.1:${proxy.port}/admin/usage/export?format=csv`, {
    headers: { authorization: `Bearer ${proxy.adminKey}` },
  })
  let lines = -1
  let bytes = 0
  for await (const chunk of answer.body ?? []) {
    bytes += chunk.length
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) lines++
  }
  clearInterval(watch)
  const seconds = (performance.now() - began) / 1000
  const [[kept] = []] = read(proxy.databasePath, 'select count(*) from usage')
  if (lines !== kept) throw new Error(`the export has ${lines} rows, the ledger ${kept}`)
  const part = (from: number, to: number) =>
    Math.max(...seen.slice(Math.floor(seen.length * from), Math.ceil(seen.length * to)))
  const mb = (value: number) => (value / 2 ** 20).toFixed(0)
  return `## Export of all rows\n\n${whole(lines)} rows, ${mb(bytes)} MB of CSV in ${seconds.toFixed(1)} s (${whole(lines / seconds)} rows/s). Memory of the proxy: ${mb(before)} MB before; at most ${mb(part(0, 0.25))} MB in the first quarter, ${mb(part(0.75, 1))} MB in the last.`
}
