/** The real program on a free port, with an in-memory database, a clock moved by hand and a simulated Ollama. */
import OpenAI from 'openai'
import { parseConfig, type SettingName } from '../../src/config.ts'
import type { Log } from '../../src/log.ts'
import { startServer } from '../../src/runtime/server.ts'

export const ADMIN_KEY = 'test-admin-key'
/** 2026-11-23T08:00:00Z */
export const START_MS = 1_795_420_800_000

/** Time that stands still until it is moved. */
export const createClock = (startMs = START_MS) => {
  let ms = startMs
  let shift = 0
  return {
    now: () => Math.floor(ms + shift),
    steady: () => ms,
    /** Moves both clocks on. */
    pass(byMs: number) {
      ms += byMs
    },
    /** The wall clock alone jumps, as when somebody sets it. */
    jump(byMs: number) {
      shift += byMs
    },
  }
}
export type TestClock = ReturnType<typeof createClock>

export type Logged = { level: string; message: string } & Record<string, unknown>

const createRecordingLog = () => {
  const lines: Logged[] = []
  const at = (level: string) => (fields: Record<string, unknown>, message: string) =>
    void lines.push({ ...fields, level, message })
  const log: Log = { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
  return { log, lines }
}

const untilTrue = async (condition: () => boolean) => {
  while (!condition()) await new Promise(resolve => setImmediate(resolve))
}

export type ProxyOptions = {
  /** The upstream's URL; by default nothing listens there. */
  ollamaUrl?: string
  settings?: Partial<Record<SettingName, string>>
  clock?: TestClock
}

const UNLIMITED = {
  requests_per_minute: null,
  requests_per_day: null,
  tokens_per_minute: null,
  tokens_per_day: null,
  total_token_limit: null,
}

export const startProxy = async ({
  ollamaUrl = 'http://127.0.0.1:9',
  settings = {},
  clock = createClock(),
}: ProxyOptions = {}) => {
  const { log, lines } = createRecordingLog()
  const config = parseConfig({
    OLLAMA_BASE_URL: ollamaUrl,
    ADMIN_API_KEY: ADMIN_KEY,
    HOST: '127.0.0.1',
    PORT: '0',
    DATABASE_PATH: ':memory:',
    ...settings,
  })
  const server = await startServer(config, { version: '0.0.0-test', log, clock })
  const url = `http://127.0.0.1:${server.port}`

  const call = (path: string, init: RequestInit & { key?: string; json?: unknown } = {}) => {
    const { key, json, ...rest } = init
    const headers = new Headers(rest.headers)
    if (key !== undefined) headers.set('authorization', `Bearer ${key}`)
    if (json === undefined) return fetch(url + path, { ...rest, headers })
    headers.set('content-type', headers.get('content-type') ?? 'application/json')
    return fetch(url + path, { method: 'POST', ...rest, headers, body: JSON.stringify(json) })
  }

  return {
    url,
    port: server.port,
    clock,
    server,
    log: lines,
    /** Any request; `json` makes it a POST unless a method is given. */
    call,
    /** The same with the admin key; resolves with the parsed body. */
    async admin(path: string, init: RequestInit & { json?: unknown } = {}) {
      const response = await call(path, { key: ADMIN_KEY, ...init })
      return { status: response.status, headers: response.headers, body: await response.json() }
    },
    /** Makes a user (unlimited unless limits are given) and returns its key. */
    async createUser(userId: string, limits: Record<string, number | null> = UNLIMITED): Promise<string> {
      const response = await call('/admin/users', { key: ADMIN_KEY, json: { user_id: userId, limits } })
      const body = (await response.json()) as { api_key: string }
      if (response.status !== 201) throw new Error(JSON.stringify(body))
      return body.api_key
    },
    /** The real SDK, without retries of its own. */
    sdk: (apiKey: string) => new OpenAI({ apiKey, baseURL: `${url}/v1`, maxRetries: 0 }),
    /** Moves the clock and every deadline on. */
    pass(ms: number) {
      clock.pass(ms)
      server.tick()
    },
    /** Resolves when the condition holds: looked at after each turn of the event loop, never by waiting a time. */
    until: untilTrue,
    /** Gives sockets and threads so many milliseconds of their own, where nothing tells when they are done. */
    async turns(milliseconds: number) {
      for (let turn = 0; turn < milliseconds; turn++) await Bun.sleep(1)
    },
    /** Resolves when no request is in flight: every row is closed. */
    settled: () => untilTrue(() => server.inFlight === 0),
    stop: () => server.stop(0),
  }
}
export type Proxy = Awaited<ReturnType<typeof startProxy>>
