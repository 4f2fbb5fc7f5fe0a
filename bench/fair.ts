/** Fairness of the event loop: what paced streams feel of one large thing at a time. */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Helper, startHelper } from './children.ts'
import type { DisturbOrder, DisturbResult } from './disturb.ts'
import { read } from './ledger-reports.ts'
import { fillPast, userKey, year } from './ledger-rows.ts'
import { shapes } from './loads.ts'
import { measure } from './measure.ts'
import type { Result } from './sections.ts'
import { type ProxyServer, type Server, startProxyWithUsers, startSimulator } from './servers.ts'

/** The largest body that is taken by default. */
const BODY_BYTES = 32 * 1024 * 1024
const RETENTION_DAYS = 2
const DAY_MS = 86_400_000

const past = (short: boolean) => ({
  ...year,
  ...(short ? { rows: 1000, users: 10, heaviest: 0.5 } : { rows: 200_000 }),
})

/** Each row of the table and what is asked meanwhile. */
const disturbances = (
  proxy: ProxyServer,
  upstream: Server,
  short: boolean,
): [row: string, order: DisturbOrder][] => {
  const at = (path: string) => `http://127.0.0.1:${proxy.port}${path}`
  const toProxy = { url: at(proxy.path), key: proxy.key ?? '', status: 200, everyMs: 1000 }
  const toUpstream = { ...toProxy, url: `http://127.0.0.1:${upstream.port}${upstream.path}` }
  const text = { what: 'text', bodyBytes: BODY_BYTES } as const
  const messages = { what: 'messages', dialect: 'openai' } as const
  return [
    // What the machine itself makes of such a body: the proxy has no part in it.
    ['32 MB past the proxy, each second', { ...toUpstream, large: { ...text, dialect: 'ollama' } }],
    ['32 MB body, each second', { ...toProxy, large: { ...text, dialect: 'openai' } }],
    ['2,000 messages, each second', { ...toProxy, large: { ...messages, count: 2000 } }],
    [
      '10,000 messages (400), each second',
      { ...toProxy, status: 400, large: { ...messages, count: 10_000 } },
    ],
    [
      '500 refusals a second, for want of tokens',
      {
        ...toProxy,
        key: proxy.closedKeys?.tokens ?? '',
        status: 429,
        everyMs: 2,
        unlike: true,
        large: { ...messages, count: 1 },
      },
    ],
    [
      'export of all rows, all the time',
      {
        url: at('/admin/usage/export?format=csv'),
        key: proxy.adminKey,
        status: 200,
        everyMs: 0,
        large: { what: 'export', rowsAtLeast: past(short).rows },
      },
    ],
    [
      'history of the heaviest, each 20 ms',
      {
        url: at('/v1/usage/history?limit=100'),
        key: userKey(1),
        status: 200,
        everyMs: 20,
        large: { what: 'history', rows: 100 },
      },
    ],
  ]
}

const finish = async (helper: Helper, result: Result): Promise<Result> => {
  const { answered, ms, wrong, faults } = JSON.parse(await helper.finish()) as DisturbResult
  return {
    ...result,
    wrong: result.wrong + wrong,
    faults: [...result.faults, ...faults],
    disturbance: { answered, ms },
  }
}

export type Fairness = {
  rounds: number
  short: boolean
  warm: (server: Server) => Promise<void>
  note: (row: string, round: number, result: Result) => void
}

/** Notes a row for each disturbance and round, and says what retention did meanwhile. */
export const measureFairness = async ({ rounds, short, warm, note }: Fairness): Promise<string> => {
  const shape = shapes.fair(short)
  const folder = mkdtempSync(join(tmpdir(), 'proxy-bench-fair-'))
  const filled = join(folder, 'filled.db')
  const upstream = await startSimulator(0, 'bench/large-ollama.ts')
  const texts: string[] = []
  const onCopy = async (name: string, settings: Record<string, string> = {}) => {
    const databasePath = join(folder, name)
    copyFileSync(filled, databasePath)
    const proxy = await startProxyWithUsers({ upstream: upstream.url, databasePath, settings })
    await warm(proxy)
    // The first time that so many streams are open at once is slower than every later one.
    if (!short) await measure(proxy, shape, undefined)
    return proxy
  }

  const measureRetention = async (round: number) => {
    const proxy = await onCopy(`retention-${round}.db`, { USAGE_RETENTION_DAYS: String(RETENTION_DAYS) })
    // A whole hour is retired at once, so the last may have to wait.
    const dueBefore = Math.floor((Date.now() - RETENTION_DAYS * DAY_MS) / 3_600_000 - 1) * 3_600_000
    const due = () =>
      Number(read(proxy.databasePath, `select count(*) from usage where id >> 10 < ${dueBefore}`)[0]?.[0])
    const all = Number(read(filled, `select count(*) from usage where id >> 10 < ${dueBefore}`)[0]?.[0])
    const before = due()
    const result = await measure(proxy, shape, upstream.pid)
    const after = due()
    const idle = after < all ? [] : ['retention deleted nothing']
    note('retention of old rows', round, {
      ...result,
      wrong: result.wrong + idle.length,
      faults: [...result.faults, ...idle],
    })
    texts.push(
      `Retention, round ${round}: ${before - after} rows went while the streams ran, ${after} of ${all} were left${after === 0 ? ', so it ended before them' : ''}.`,
    )
    await proxy.stop()
  }

  try {
    await fillPast(filled, past(short), () => {})
    const proxy = await onCopy('proxy.db')
    for (let round = 1; round <= rounds; round++) {
      note('nothing', round, await measure(proxy, shape, upstream.pid))
      for (const [row, order] of disturbances(proxy, upstream, short)) {
        const helper = startHelper(['bench/disturb.ts', JSON.stringify(order)])
        await helper.line()
        note(row, round, await finish(helper, await measure(proxy, shape, upstream.pid)))
      }
      await measureRetention(round)
    }
    await proxy.stop()
    return `${texts.join('\n')}\n`
  } finally {
    await upstream.stop()
    rmSync(folder, { recursive: true, force: true })
  }
}
