/** The processes of a benchmark: the simulated Ollama, the bare pass-through, the proxy as in production. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Dialect } from './answer.ts'
import { type Child, run } from './children.ts'

export type Server = {
  name: string
  host: string
  port: number
  path: string
  dialect: Dialect
  key?: string
  /** Keys whose requests are refused with 429, by a limit of requests and by one of tokens. */
  closedKeys?: { requests: string; tokens: string }
  /** Undefined for a server by URL: its CPU time and memory can't be known. */
  pid?: number
  stop(): Promise<void>
}

const START_TIMEOUT_MS = 60_000

const stopping =
  (child: Child, after = () => {}) =>
  async () => {
    child.kill('SIGTERM')
    await child.exited
    after()
  }

/** The address in the first line that a child prints; the rest of its output is read and forgotten. */
const addressOf = async (child: Child): Promise<URL> => {
  const reader = (child.stdout as ReadableStream<Uint8Array>).getReader()
  const decoder = new TextDecoder()
  for (let text = ''; ; ) {
    const { done, value } = await reader.read()
    text += decoder.decode(value, { stream: true })
    const address = /http:\/\/\S+/.exec(text)?.[0]
    if (address !== undefined) return new URL(address)
    if (done) throw new Error(`A server of the benchmark did not start: ${text}`)
  }
}

/** The simulated Ollama, or with `script` another program that takes the same options. */
export const startSimulator = async (
  port: number,
  script = 'src/simulator/main.ts',
): Promise<Server & { url: string }> => {
  const child = run(0, [script, '--port', String(port), '--log', '0'])
  const address = await addressOf(child)
  const server = {
    name: 'direct',
    host: address.hostname,
    port: Number(address.port),
    path: '/api/chat',
    dialect: 'ollama' as const,
  }
  return { ...server, url: address.origin, pid: child.pid, stop: stopping(child) }
}

export const startBare = async (upstream: string): Promise<Server> => {
  const child = run(1, ['bench/bare.ts'], { UPSTREAM: upstream })
  const { hostname, port } = await addressOf(child)
  const server = {
    name: 'bare',
    host: hostname,
    port: Number(port),
    path: '/api/chat',
    dialect: 'ollama' as const,
  }
  return { ...server, pid: child.pid, stop: stopping(child) }
}

const freePort = () => {
  const listener = Bun.listen({ hostname: '127.0.0.1', port: 0, socket: { data() {} } })
  listener.stop(true)
  return listener.port
}

const answers = async (url: string, child: Child): Promise<void> => {
  for (const began = performance.now(); performance.now() - began < START_TIMEOUT_MS; await Bun.sleep(1)) {
    if (child.exitCode !== null) throw new Error(`The proxy ended with exit code ${child.exitCode}.`)
    if (
      await fetch(url).then(
        answer => answer.ok,
        () => false,
      )
    )
      return
  }
  throw new Error('The proxy did not begin to listen.')
}

export type ProxyOptions = {
  upstream: string
  /** A database that is there already; a new one otherwise. */
  databasePath?: string
  /** Settings beside those of every benchmark. */
  settings?: Record<string, string>
  /** Where the CPU profile goes when the proxy stops. */
  profileFolder?: string | undefined
}

export type ProxyServer = Server & { adminKey: string; startedMs: number; databasePath: string }

/** The proxy as it runs in production: a file for its database, its log at `info` into a file. */
export const startProxy = async ({
  upstream,
  databasePath,
  settings = {},
  profileFolder,
}: ProxyOptions): Promise<ProxyServer> => {
  const folder = mkdtempSync(join(tmpdir(), 'proxy-bench-'))
  const port = freePort()
  const adminKey = randomBytes(16).toString('hex')
  const profiling =
    profileFolder === undefined
      ? []
      : ['--cpu-prof', '--cpu-prof-md', `--cpu-prof-dir=${resolve(profileFolder)}`]
  const path = databasePath ?? join(folder, 'proxy.db')
  const env = {
    OLLAMA_BASE_URL: upstream,
    ADMIN_API_KEY: adminKey,
    DATABASE_PATH: path,
    HOST: '127.0.0.1',
    PORT: String(port),
    LOG_LEVEL: 'info',
    LOG_FORMAT: 'json',
    ...settings,
  }
  const began = performance.now()
  const child = run(
    1,
    ['--max-http-header-size=262144', ...profiling, 'src/main.ts'],
    env,
    join(folder, 'proxy.log'),
  )
  const stop = stopping(child, () => rmSync(folder, { recursive: true, force: true }))
  try {
    await answers(`http://127.0.0.1:${port}/`, child)
  } catch (error) {
    await stop()
    throw error
  }
  const startedMs = performance.now() - began
  const server = {
    name: 'proxy',
    host: '127.0.0.1',
    port,
    path: '/v1/chat/completions',
    dialect: 'openai' as const,
  }
  return { ...server, pid: child.pid, adminKey, startedMs, databasePath: path, stop }
}

/** All five limits set, and never reached. */
const distant = {
  requests_per_minute: 1e9,
  requests_per_day: 1e9,
  tokens_per_minute: 1e9,
  tokens_per_day: 1e9,
  total_token_limit: 1e9,
}

const createUser = async (
  { port, adminKey }: ProxyServer,
  userId: string,
  limits: Partial<typeof distant> = {},
): Promise<string> => {
  const answer = await fetch(`http://127.0.0.1:${port}/admin/users`, {
    method: 'POST',
    headers: { authorization: `Bearer ${adminKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({ user_id: userId, limits: { ...distant, ...limits } }),
  })
  const body = (await answer.json()) as { api_key: string }
  if (answer.status !== 201) throw new Error(`The proxy made no user: ${JSON.stringify(body)}`)
  return body.api_key
}

/** A proxy with a user whose five limits are never reached, and users who have used up one of theirs. */
export const startProxyWithUsers = async (options: ProxyOptions): Promise<ProxyServer> => {
  const proxy = await startProxy(options)
  proxy.key = await createUser(proxy, 'bench')
  proxy.closedKeys = {
    requests: await createUser(proxy, 'closed-requests', { requests_per_day: 1 }),
    tokens: await createUser(proxy, 'closed-tokens', { tokens_per_day: 60 }),
  }
  for (const key of Object.values(proxy.closedKeys)) await useUp(proxy, key)
  return proxy
}

/** One completion, after which the next one is refused. */
const useUp = async ({ port, path }: ProxyServer, key: string) => {
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'fake-c20-i0-b1', messages: [{ role: 'user', content: 'Hello' }] }),
  })
  if (answer.status !== 200) throw new Error(`The proxy gave no completion: ${await answer.text()}`)
}

/** A server that runs already; its path says which dialect it speaks. */
export const serverAt = (name: string, address: string, key: string | undefined): Server => {
  const { hostname, port, pathname } = new URL(address)
  const dialect = pathname.startsWith('/api/') ? ('ollama' as const) : ('openai' as const)
  const server = { name, host: hostname, port: Number(port === '' ? 80 : port), path: pathname, dialect }
  return { ...server, ...(key === undefined ? {} : { key }), stop: async () => {} }
}
