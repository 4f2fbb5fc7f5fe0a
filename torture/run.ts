/** The torture itself: clients, faults, kills; then the ledger against the simulator's own log. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Account, createAccounts, createAdmin, createPrices } from './accounts.ts'
import { checkLimits } from './check-limits.ts'
import { checkReports } from './check-reports.ts'
import { checkRequests } from './check-requests.ts'
import { type ClientDeps, perform, type Seen } from './client.ts'
import { createKiller } from './killer.ts'
import { openLedger } from './ledger.ts'
import { startOllama } from './ollama.ts'
import { createDice, createPlan, embedderOf, models } from './plan.ts'
import { createProxy, findFreePort } from './proxy.ts'
import { createScorecard, type Line } from './scorecard.ts'
import { checkVisible, watchTotals } from './watch.ts'

export type TortureOptions = {
  /** How long clients begin new requests. */
  seconds: number
  /** Stops after so many kills, if that is sooner. */
  kills?: number
  clients: number
  seed: number
  /** Keeps the database. */
  keep?: boolean
}

export type TortureResult = {
  lines: Line[]
  holes: number
  kills: number
  crashes: number
  requests: number
  rows: number
  outcomes: Record<string, number>
  /** How the simulator's answers ended, the faults made on purpose among them. */
  ended: Record<string, number>
  databasePath: string
}

const ADMIN_KEY = 'torture-admin-key'
const VISIBLE_PROBABILITY = 0.15
const PRICE_EVERY_MS = 2500
const SETTLED_WITHIN_MS = 15_000

/** Milliseconds until a client's next request: no busy loop, and what it left is gone where only time tells. */
const pauseAfter = ({ end, status, attempt }: Seen): number => {
  // Embeddings carry no tag: they are told apart by their client's instants.
  if (attempt.dialect === 'embedding') return end === 'left' ? 500 : 3
  if (status === 429) return 300
  return end === 'whole' ? 0 : 40
}

const ownerOf = (accounts: readonly Account[], client: number) => {
  const { userId, keys } = accounts[client % accounts.length] as Account
  return { userId, apiKey: keys[Math.floor(client / accounts.length) % keys.length] as string }
}

const countBy = (names: readonly string[]): Record<string, number> => {
  const counts: Record<string, number> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

export const runTorture = async (options: TortureOptions): Promise<TortureResult> => {
  const { seconds, seed, clients, kills = Number.POSITIVE_INFINITY } = options
  const folder = mkdtempSync(join(tmpdir(), 'torture-'))
  const databasePath = join(folder, 'proxy.db')
  const now = Date.now
  const scorecard = createScorecard()
  const everyModel = [...models, ...Array.from({ length: clients }, (_, client) => embedderOf(client))]
  const ollama = await startOllama({ models: everyModel, seed })
  const proxy = createProxy({
    port: await findFreePort(),
    databasePath,
    adminKey: ADMIN_KEY,
    ollamaUrl: ollama.url,
  })
  try {
    await proxy.start()
    const admin = createAdmin(proxy.url, ADMIN_KEY)
    const accounts = await createAccounts(admin)
    const pricing = createPrices(admin, now)
    await pricing.setAll()

    const killer = createKiller(proxy, ollama.received, createDice(seed))
    const until = performance.now() + seconds * 1000
    const more = () => performance.now() < until && proxy.kills < kills
    const seen: Seen[] = []
    const deps: ClientDeps = { baseUrl: () => proxy.url, now, reached: killer.reached }

    const live = async (client: number) => {
      const plan = createPlan(seed, client, ownerOf(accounts, client))
      const chance = createDice(seed + client)
      while (more()) {
        const one = await perform(plan(), deps)
        seen.push(one)
        if (one.end === 'whole' && chance.hit(VISIBLE_PROBABILITY))
          await checkVisible(proxy.url, one, scorecard)
        await Bun.sleep(pauseAfter(one))
      }
    }
    const changePrices = async () => {
      for (let round = 1; more(); round++) {
        await Bun.sleep(PRICE_EVERY_MS)
        await pricing.set('brisk', { input: 3_000_000 + round, output: 15_000_000 - round })
      }
    }
    let clientsDone = false
    const watching = watchTotals(admin, scorecard, () => !clientsDone)
    await Promise.all([
      killer.run(more),
      ollama.run(createDice(seed + 1), more),
      changePrices(),
      ...Array.from({ length: clients }, (_, client) => live(client)),
    ])
    clientsDone = true
    await watching

    const ledger = openLedger(databasePath)
    const settledUntil = performance.now() + SETTLED_WITHIN_MS
    while (ledger.open() > 0 && performance.now() < settledUntil) await Bun.sleep(50)
    scorecard
      .check('no row stays open when all clients are gone')
      .note(ledger.open() === 0 ? undefined : `${ledger.open()} rows are open`)

    proxy.kill()
    await proxy.restart()
    const rows = ledger.rows()
    const log = ollama.log()
    checkRequests(
      { seen, log, rows, prices: pricing.prices, outages: proxy.outages, died: ollama.died },
      scorecard,
    )
    checkLimits({ accounts, seen, rows, log }, scorecard)
    await checkReports({ url: proxy.url, admin, adminKey: ADMIN_KEY, accounts, ledger, rows, scorecard })
    scorecard
      .check('the proxy ends in good order')
      .note((await proxy.stop()) === 0 ? undefined : 'its exit code is not 0')
    const integrity = ledger.integrity()
    scorecard.check('pragma integrity_check').note(integrity === 'ok' ? undefined : integrity)
    scorecard.check('no fault of its own in the log').note(proxy.logged[0])
    return {
      lines: scorecard.lines(),
      holes: scorecard.holes,
      kills: proxy.kills,
      crashes: ollama.crashes,
      requests: seen.length,
      rows: rows.length,
      outcomes: countBy(rows.map(({ outcome, basis }) => `${outcome}/${basis}`)),
      ended: countBy(log.map(({ ended }) => ended ?? 'running')),
      databasePath,
    }
  } finally {
    proxy.kill()
    await ollama.close()
    if (options.keep !== true) rmSync(folder, { recursive: true, force: true })
  }
}
