/**
 * The ledger's benchmark: a database with a year behind it, its size, and the time of each report from a running proxy
 * on it, alone and beside streams.
 *
 * `bun bench/ledger.ts [--rows 1000000] [--rounds 15] [--folder path] [--write]`
 *
 * The files it makes (91 bytes a row, roll-ups included, and 100 MB) are deleted, or with `--folder` kept there and used
 * again the next time. `--write` leaves the tables in docs/ledger.md.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { measureGroups, measureStreams } from './ledger-load.ts'
import { measureExport, measureReports, ms, read, whole } from './ledger-reports.ts'
import { crowd, fillPast, type Past, year } from './ledger-rows.ts'
import { median, toTable } from './report.ts'
import { startProxy, startSimulator } from './servers.ts'

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '1000000' },
    rounds: { type: 'string', default: '15' },
    folder: { type: 'string' },
    write: { type: 'boolean', default: false },
  },
})
const rows = Number(values.rows)
const rounds = Number(values.rounds)
if (!(Number.isInteger(rows) && rows >= 1000 && Number.isInteger(rounds) && rounds >= 1)) {
  console.error('--rows must be a whole number from 1000, --rounds one from 1.')
  process.exit(2)
}

const texts: string[] = []
const say = (text: string) => {
  texts.push(text)
  console.log(`\n${text}`)
}

const fill = async (path: string, past: Past) => {
  if (existsSync(path)) return
  const began = performance.now()
  let said = 0
  await fillPast(path, past, done => {
    if (done - said < past.rows / 10) return
    said = done
    console.error(`${whole(done)} rows after ${Math.round((performance.now() - began) / 1000)} s`)
  })
}

/** Bytes of each table and index. */
const sizes = (path: string) =>
  new Map(read(path, 'select name, sum(pgsize) from dbstat group by name') as [string, number][])

const measureSizes = (path: string): string => {
  const bytes = sizes(path)
  const of = (...names: string[]) => names.reduce((sum, name) => sum + (bytes.get(name) ?? 0), 0)
  const rollUps = ['user', 'hour', 'day'].map(by => [
    `sums by ${by}`,
    `usage_by_${by}`,
    `sqlite_autoindex_usage_by_${by}_1`,
  ])
  const parts = [['rows', 'usage'], ['their index', 'usage_user'], ...rollUps]
  const table = parts.map(([title = '', ...names]) => [
    title,
    (of(...names) / 2 ** 20).toFixed(1),
    (of(...names) / rows).toFixed(1),
  ])
  const row = of('usage', 'usage_user') / rows
  return `## Size\n\nA row takes **${row.toFixed(1)} bytes** on disk with its index (target: at most 120).\n\n${toTable(['', 'MB', 'bytes a row'], table)}`
}

const measureStarts = async (upstream: string, files: [title: string, path: string][]): Promise<string> => {
  const times = files.map(() => [] as number[])
  for (let round = 0; round < 3; round++) {
    for (const [index, [, databasePath]] of files.entries()) {
      const proxy = await startProxy({ upstream, databasePath })
      times[index]?.push(proxy.startedMs)
      await proxy.stop()
    }
  }
  const table = files.map(([title], index) => [
    title,
    ms(median(times[index] ?? [])),
    (times[index] ?? []).map(ms).join(', '),
  ])
  return `## Start\n\nFrom the process's beginning to its first answer (target: under 3,000 ms).\n\n${toTable(['', 'median ms', 'each'], table)}`
}

const folder =
  values.folder === undefined ? mkdtempSync(join(tmpdir(), 'ledger-bench-')) : resolve(values.folder)
mkdirSync(folder, { recursive: true })
const simulator = await startSimulator(0)
try {
  const yearPath = join(folder, `year-${rows}.db`)
  const crowdPath = join(folder, 'crowd.db')
  say(
    `# The ledger's figures\n\nMade by \`bun bench/ledger.ts --rows ${rows} --write\`: ${whole(rows)} rows over a year, ${whole(year.users)} users (the heaviest has a tenth), ${year.models} models. ${cpus().length} × ${cpus()[0]?.model ?? 'unknown'}, ${process.platform} ${process.arch}, Bun ${Bun.version}.`,
  )
  await fill(yearPath, { ...year, rows })
  await fill(crowdPath, crowd)
  say(`The file has ${whole(statSync(yearPath).size / 2 ** 20)} MB.`)
  say(measureSizes(yearPath))
  say(
    await measureStarts(simulator.url, [
      ['a new database', join(folder, 'new.db')],
      [`${whole(rows)} rows over a year`, yearPath],
      [`${whole(crowd.rows)} rows of ${whole(crowd.users)} users within a day`, crowdPath],
    ]),
  )
  say(await measureGroups(simulator.url))
  const proxy = await startProxy({ upstream: simulator.url, databasePath: yearPath })
  try {
    say(await measureExport(proxy))
    say(await measureReports(proxy, rounds))
    say(await measureStreams(proxy))
  } finally {
    await proxy.stop()
  }
  if (values.write) await Bun.write(resolve(import.meta.dir, '../docs/ledger.md'), `${texts.join('\n\n')}\n`)
} finally {
  await simulator.stop()
  if (values.folder === undefined) rmSync(folder, { recursive: true, force: true })
}
