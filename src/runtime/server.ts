/** Bun's door: opens the database, supplies what the core asks for, serves, drains. */
import { createApp } from '../app.ts'
import type { Config } from '../config.ts'
import { createIds } from '../ids.ts'
import type { WindowStore } from '../limits/admission.ts'
import { createLearnt } from '../limits/learnt.ts'
import { createMemoryWindows } from '../limits/memory.ts'
import type { Log } from '../log.ts'
import { isStorageFull } from '../store/commit.ts'
import { createLedger } from '../store/ledger.ts'
import { recent } from '../store/recovery.ts'
import { createStore } from '../store/store.ts'
import { createTicker, TICK_MS } from '../ticker.ts'
import { startCheckpoints } from './checkpoint.ts'
import { CLOCK_ERROR_MS, type OpenDatabase, openDatabase } from './database.ts'
import { createImageFetcher } from './fetch-image.ts'
import { sniffImageType } from './image-type.ts'
import { createLargeBodies } from './large-bodies.ts'
import { createReports } from './reader.ts'
import { startRetention } from './retention.ts'
import { newSecret, newToolCallId, sha256 } from './secrets.ts'
import { StartError } from './start-error.ts'

/** Wall time for rows, and time that never goes back for windows and deadlines. Tests move theirs by hand. */
export type Clock = {
  now: () => number
  steady: () => number
  /** Undefined where `tick` is called by hand. */
  tickEveryMs?: number
}

const startedAt = Date.now() - performance.now()
export const systemClock: Clock = {
  now: Date.now,
  steady: () => startedAt + performance.now(),
  tickEveryMs: TICK_MS,
}

export type RunningServer = {
  url: string
  port: number
  databasePath: string
  /** Requests that a crash had cut off and that this start closed. */
  recovered: number
  ollama: { version: () => Promise<string | undefined>; models: () => Promise<{ name: string }[]> }
  windows: WindowStore
  /** Moves deadlines on; called by hand where the clock is. */
  tick: () => void
  readonly inFlight: number
  /** No new requests; running streams finish, at most for `timeoutMs`; rows are closed; the database is closed. */
  stop: (timeoutMs: number) => Promise<void>
}

const DAY_MS = 86_400_000
/** Long enough for an honest slow upload, short enough to be rid of a connection that sends nothing (bun-facts §3). */
const IDLE_TIMEOUT_S = 60
const SWEEP_EVERY_TICKS = 4
/** The limit of ours answers with an error that SDKs can read; Bun's own is an empty 413, so it must not come first. */
const BUN_BODY_MAX = 2 ** 40

const loopback = /^(127\.|::1$|::ffff:127\.)/

const rebuildWindows = (windows: WindowStore, { db }: OpenDatabase, nowMs: number, steadyMs: number) => {
  // The past is told in wall time; the windows live in steady time, from now on.
  const shift = steadyMs - nowMs
  for (const { user, admittedMs, endedMs, tokens } of recent(db, nowMs - DAY_MS)) {
    // A row of the far future is from a clock that was wrong once; it must not lock its user out at every start.
    if (admittedMs > nowMs + CLOCK_ERROR_MS) continue
    windows.recall({ user, admittedMs: admittedMs + shift, endedMs: endedMs + shift, tokens }, steadyMs)
  }
}

/** Bun's own option of fetch: without it a silence of six minutes ends a request, and cold models load longer. */
const patientFetch = (url: string, init: RequestInit) =>
  fetch(url, { ...init, timeout: false } as RequestInit)

const listen = (config: Config, handle: (request: Request) => Response | Promise<Response>) => {
  try {
    return Bun.serve({
      hostname: config.host,
      port: config.port,
      idleTimeout: IDLE_TIMEOUT_S,
      maxRequestBodySize: BUN_BODY_MAX,
      development: false,
      // Measured: `development: false` alone lets a second process listen on the same port without an error.
      reusePort: false,
      fetch: handle,
    })
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : ''
    if (code === 'EADDRINUSE') {
      throw new StartError(
        `Port ${config.port} is in use already: stop the other program, or set PORT to another number (0 takes any free one).`,
        { cause: error },
      )
    }
    if (code === 'EACCES')
      throw new StartError(`Port ${config.port} may not be used by this user: set PORT to 1024 or more.`, {
        cause: error,
      })
    throw new StartError(
      `Nothing can listen on ${config.host}:${config.port}: set HOST to an address of this machine.`,
      { cause: error },
    )
  }
}

/** @throws StartError with one plain sentence. */
export const startServer = async (
  config: Config,
  options: { version: string; log: Log; clock?: Clock },
): Promise<RunningServer> => {
  const { version, log, clock = systemClock } = options
  const nowMs = clock.now()
  const database = openDatabase({ path: config.databasePath, synchronous: config.sqliteSynchronous, nowMs })
  const store = createStore(database.db)
  const reports = createReports(database)
  const checkpoints = startCheckpoints(database)
  const windows = createMemoryWindows()
  rebuildWindows(windows, database, nowMs, clock.steady())
  const ledger = createLedger({
    commit: database.commit,
    soon: checkpoints.soon,
    later: (delayMs, task) => void setTimeout(task, delayMs),
    onFault: cause => log.error({ cause }, 'the ledger could not be written'),
  })
  const largeBodies = createLargeBodies()
  const ticker = createTicker()
  const numbers = new Map<string, number>()
  const learnt = createLearnt(await store.listLearnt(), (model, text) => {
    const noted = numbers.get(model)
    if (noted !== undefined) ledger.noteLearnt(noted, text)
    else
      void store.modelId(model).then(id => ledger.noteLearnt(numbers.set(model, id).get(model) ?? id, text))
  })

  let server: ReturnType<typeof listen> | undefined
  const app = createApp({
    config,
    version,
    store,
    reports,
    ledger,
    windows,
    learnt,
    ticker,
    now: clock.now,
    steady: clock.steady,
    ids: createIds({ now: clock.now, last: database.lastId }),
    newSecret,
    newToolCallId,
    sha256,
    fetch: patientFetch,
    fetchImage: createImageFetcher({
      mode: config.imageUrlFetch,
      maxBytes: config.imageBytesMax,
      timeoutMs: 30_000,
    }),
    sniffImageType,
    isLoopback: request => loopback.test(server?.requestIP(request)?.address ?? ''),
    liftTimeout: request => server?.timeout(request, 0),
    isStorageFull,
    beginLargeBody: largeBodies.begin,
    log,
  })
  await app.ready()

  let ticks = 0
  ticker.add(() => {
    if (++ticks % SWEEP_EVERY_TICKS === 0) windows.sweep(clock.steady())
  })
  const stopRetention = startRetention({ database, days: config.retentionDays, now: clock.now, ticker, log })

  try {
    server = listen(config, app.fetch)
  } catch (error) {
    await reports.close()
    await checkpoints.close()
    database.close()
    throw error
  }
  const timer = clock.tickEveryMs === undefined ? undefined : setInterval(ticker.tick, clock.tickEveryMs)
  const listening = server

  return {
    url: String(listening.url).replace(/\/$/, ''),
    port: listening.port ?? config.port,
    databasePath: database.path,
    recovered: database.recovered,
    ollama: app.upstream,
    windows,
    tick: ticker.tick,
    get inFlight() {
      return app.inFlight
    },
    async stop(timeoutMs) {
      app.drain()
      const finished = listening.stop()
      await Promise.race([finished, Bun.sleep(timeoutMs)])
      await app.stop()
      learnt.flush()
      await ledger.drain()
      await listening.stop(true)
      stopRetention()
      clearInterval(timer)
      await reports.close()
      await largeBodies.close()
      await checkpoints.close()
      database.close()
    },
  }
}
