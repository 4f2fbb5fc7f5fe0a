/** Two measurements of the proxy alone, once a run: memory after many requests, and the time to start. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { LoadResult } from './load.ts'
import { residentBytes } from './process.ts'
import { fillLedger } from './rows.ts'
import { type ProxyServer, startProxy, startProxyWithUsers } from './servers.ts'

export type MemoryResult = { requests: number; residentBytes: number; wrong: number }[]

/** Long enough for garbage to be collected and for pages to be given back. */
const REST_MS = 3000

/** Resident memory after the first tenth of the requests (at most 10,000), after each ten times as many, and after all. */
export const measureMemory = async (
  upstream: string,
  requests: number,
  send: (proxy: ProxyServer, requests: number) => Promise<LoadResult>,
): Promise<MemoryResult> => {
  const proxy = await startProxyWithUsers({ upstream })
  try {
    const first = Math.min(10_000, Math.ceil(requests / 10))
    const measured: MemoryResult = []
    let sent = 0
    for (let total = first; sent < requests; total = Math.min(requests, total * 10)) {
      const { wrong } = await send(proxy, total - sent)
      sent = total
      await Bun.sleep(REST_MS)
      measured.push({ requests: total, residentBytes: residentBytes(proxy.pid ?? 0) ?? Number.NaN, wrong })
    }
    return measured
  } finally {
    await proxy.stop()
  }
}

export type StartResult = { rows: number; startedMs: number[] }

/** From the process's beginning to its first answer: with a new database each time, then with one of `rows` rows. */
export const measureStarts = async (
  upstream: string,
  rounds: number,
  rows: number,
): Promise<StartResult[]> => {
  const started = async (databasePath?: string) => {
    const proxy = await startProxy({ upstream, ...(databasePath === undefined ? {} : { databasePath }) })
    await proxy.stop()
    return proxy.startedMs
  }
  const repeat = async (start: () => Promise<number>) => {
    const times: number[] = []
    for (let round = 0; round < rounds; round++) times.push(await start())
    return times
  }
  const results: StartResult[] = [{ rows: 0, startedMs: await repeat(() => started()) }]
  if (rows === 0) return results
  const folder = mkdtempSync(join(tmpdir(), 'proxy-bench-rows-'))
  try {
    const databasePath = join(folder, 'proxy.db')
    await started(databasePath)
    fillLedger(databasePath, rows, Date.now())
    results.push({ rows, startedMs: await repeat(() => started(databasePath)) })
    return results
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
