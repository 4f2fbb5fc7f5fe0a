/** The ledger under load: what streams suffer from reports, and how many rows share a commit. */
import { readFileSync } from 'node:fs'
import { outputOf } from './children.ts'
import { ask, ms, type Question, questions } from './ledger-reports.ts'
import { userKey } from './ledger-rows.ts'
import type { LoadOrder, LoadResult } from './load.ts'
import { median, toTable } from './report.ts'
import { type ProxyServer, startProxyWithUsers } from './servers.ts'

type Load = Pick<LoadOrder, 'model' | 'stream' | 'tokens' | 'connections'> & Partial<LoadOrder>

const runLoad = async (proxy: ProxyServer, key: string, load: Load): Promise<LoadResult> => {
  const { host, port, path, dialect } = proxy
  const order: LoadOrder = { status: 200, warmUp: 0, ...load, host, port, path, dialect, key }
  const result = JSON.parse(await outputOf(['bench/load.ts', JSON.stringify(order)])) as LoadResult
  if (result.wrong > 0) throw new Error(result.faults.join('\n'))
  return result
}

const QUERY_EVERY_MS = 250

/** What paced streams suffer while something is asked every so often. */
export const measureStreams = async (proxy: ProxyServer): Promise<string> => {
  const find = (title: string) => questions().filter(question => question.title.startsWith(title))
  const exporting = async (over: AbortSignal) => {
    const url = `http://127.0.0.1:${proxy.port}/admin/usage/export?format=csv`
    while (!over.aborted) {
      const answer = await fetch(url, {
        headers: { authorization: `Bearer ${proxy.adminKey}` },
        signal: over,
      }).catch(() => undefined)
      await answer?.arrayBuffer().catch(() => undefined)
    }
  }
  const asking = (list: Question[]) => async (over: AbortSignal) => {
    for (let turn = 0; !over.aborted; turn++) {
      const next = Bun.sleep(QUERY_EVERY_MS)
      const question = list[turn % list.length]
      if (question !== undefined) await ask(proxy, question)
      await next
    }
  }
  const works: [title: string, work: (over: AbortSignal) => Promise<void>][] = [
    ['nothing', async () => {}],
    ['/v1/usage, summary, history', asking([...find('/v1/usage'), ...find('history')])],
    ['month by day and model', asking(find('/admin/usage, month by day and model'))],
    ['month by day, user, model', asking(find('/admin/usage, month by day, user, model'))],
    ['month by day and key (all rows)', asking(find('/admin/usage, month by day and key'))],
    ['export of all rows', exporting],
  ]
  const results = works.map(() => [] as LoadResult[])
  const load: Load = {
    model: 'fake-c150-i30',
    stream: true,
    tokens: 150,
    connections: 256,
    connectionsPerSecond: 1000,
  }
  await runLoad(proxy, userKey(2), load)
  for (let round = 0; round < 3; round++) {
    for (const [index, [, work]] of works.entries()) {
      const over = new AbortController()
      const working = work(over.signal)
      results[index]?.push(await runLoad(proxy, userKey(2), load))
      over.abort()
      await working
    }
  }
  const table = works.map(([title], index) => {
    const delays = (results[index] ?? []).map(result => result.delay)
    const p99 = delays.map(delay => delay.p99)
    return [
      title,
      ms(median(delays.map(delay => delay.p50))),
      ms(median(p99)),
      p99.map(ms).join(', '),
      ms(Math.max(...delays.map(delay => delay.max))),
    ]
  })
  return `## Streams meanwhile\n\n64 streams, a token each 30 ms; something asked every ${QUERY_EVERY_MS} ms; three rounds. Delay from a token's making to its arrival (target: the 99th percentile grows by less than 10 ms).\n\n${toTable(['ms', 'p50', 'p99', 'p99 of each round', 'worst'], table)}`
}

/** The commits in a log: frames that end a transaction, of those that it has since it began anew. */
const commitsIn = (log: string): { begunAnew: number; commits: number } => {
  const bytes = readFileSync(log)
  const header = 32
  const frame = 24 + bytes.readUInt32BE(8)
  const salt = bytes.toString('hex', 16, 24)
  let commits = 0
  for (let at = header; at + frame <= bytes.length; at += frame) {
    if (bytes.toString('hex', at + 8, at + 16) !== salt) break
    if (bytes.readUInt32BE(at + 4) !== 0) commits++
  }
  return { begunAnew: bytes.readUInt32BE(12), commits }
}

const TRIES = 10

/** How many rows share a commit: with 64 clients, and with one. */
export const measureGroups = async (upstream: string): Promise<string> => {
  const proxy = await startProxyWithUsers({ upstream })
  try {
    const log = `${proxy.databasePath}-wal`
    const rowsACommit = async (connections: number, requests: number) => {
      const load: Load = { model: 'fake-c20-i0', stream: false, tokens: 20, connections, requests }
      for (let time = 0; time < TRIES; time++) {
        const before = commitsIn(log)
        const { right } = await runLoad(proxy, proxy.key ?? '', load)
        const { begunAnew, commits } = commitsIn(log)
        // After a rest the first commit begins it anew; where a later one did too, some are not there any more.
        if (begunAnew === before.begunAnew) return (2 * right) / (commits - before.commits)
        if (begunAnew === before.begunAnew + 1) return (2 * right) / commits
      }
      throw new Error('the log begins anew too often for its commits to be counted')
    }
    const table = [
      ['64 clients', (await rowsACommit(64, 1000)).toFixed(1)],
      ['1 client', (await rowsACommit(1, 200)).toFixed(1)],
    ]
    return `## Groups\n\nOpened and closed rows a commit, plain completions (target: at least 8 under load).\n\n${toTable(['', 'rows a commit'], table)}`
  } finally {
    await proxy.stop()
  }
}
