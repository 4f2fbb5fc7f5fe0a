/** What needs no key: that the service is there, and how it is. */
import { Hono } from 'hono'
import type { Log } from '../log.ts'
import type { Store } from '../store/store.ts'
import type { Upstream } from '../upstream/ollama.ts'
import type { AppEnv } from './env.ts'

export type PublicDeps = {
  version: string
  store: Store
  upstream: Upstream
  steady: () => number
  log: Log
}

/** How long an answer of Ollama is believed. */
const FRESH_MS = 10_000
/** How long a health answer waits at most for Ollama's; an Ollama that is there answers in a few milliseconds. */
const GRACE_MS = 100
/** How long it is believed that the database can be written. */
const PROBE_MS = 2000

/**
 * Whether Ollama can be reached. One question in 10 s; an answer of ours waits for it at most 100 ms, and says the
 * last that was known where Ollama is slower than that (unreachable, where nothing was).
 */
const createOllamaProbe = (upstream: Upstream, steady: () => number) => {
  let known = { reachable: false, atMs: Number.NEGATIVE_INFINITY }
  let grace: Promise<unknown> | undefined

  const ask = async () => {
    const reachable = (await upstream.version()) !== undefined
    known = { reachable, atMs: steady() }
    grace = undefined
  }

  return async (): Promise<boolean> => {
    if (steady() - known.atMs >= FRESH_MS) {
      grace ??= Promise.race([ask(), new Promise(resolve => setTimeout(resolve, GRACE_MS))])
      await grace
    }
    return known.reachable
  }
}

export const publicRoutes = ({ version, store, upstream, steady, log }: PublicDeps) => {
  const startedMs = steady()
  const ollama = createOllamaProbe(upstream, steady)

  const probeDatabase = async (): Promise<boolean> => {
    try {
      await store.probe()
      return true
    } catch (cause) {
      log.error({ cause }, 'the database failed its probe')
      return false
    }
  }

  /** Anybody may ask, and each probe writes: what was found holds for a moment. */
  let probe = { atMs: Number.NEGATIVE_INFINITY, works: Promise.resolve(true) }
  const databaseWorks = (): Promise<boolean> => {
    if (steady() - probe.atMs >= PROBE_MS) probe = { atMs: steady(), works: probeDatabase() }
    return probe.works
  }

  return new Hono<AppEnv>()
    .get('/', c => c.json({ status: 'ok', service: 'ai-usage-proxy', version }))
    .get('/health', async c => {
      const [healthy, reachable] = await Promise.all([databaseWorks(), ollama()])
      const body = {
        status: healthy ? 'healthy' : 'unhealthy',
        ollama: reachable ? 'reachable' : 'unreachable',
        database: healthy ? 'ok' : 'failed',
        version,
        uptime_seconds: Math.floor((steady() - startedMs) / 1000),
      }
      return c.json(body, healthy ? 200 : 503)
    })
}
