/** The proxy as a process that can be killed and comes back on the same port and the same file. */
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'

const entry = fileURLToPath(new URL('../src/main.ts', import.meta.url))
const READY_WITHIN_MS = 20_000

/** A port that was free a moment ago. */
export const findFreePort = () =>
  new Promise<number>((resolve, reject) => {
    const server = createServer()
    server.on('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      const port = typeof address === 'object' && address !== null ? address.port : 0
      server.close(() => resolve(port))
    })
  })

export type ProxySettings = { port: number; databasePath: string; adminKey: string; ollamaUrl: string }

export const createProxy = (settings: ProxySettings) => {
  const url = `http://127.0.0.1:${settings.port}`
  /** Errors in its log, and what it said when it could not start. */
  const logged: string[] = []
  let child: Bun.Subprocess | undefined
  let kills = 0
  /** When the process was not there: from the kill to the next start's readiness. */
  const outages: { fromMs: number; toMs: number }[] = []

  const collect = async (stream: ReadableStream<Uint8Array>) => {
    const decoder = new TextDecoder()
    let held = ''
    for await (const bytes of stream) {
      const parts = (held + decoder.decode(bytes, { stream: true })).split('\n')
      held = parts.pop() ?? ''
      // pino: 50 is error. Upstream faults and clients that leave are made on purpose; faults of the proxy are not.
      for (const line of parts)
        if (
          !line.startsWith('{')
            ? line.startsWith('error')
            : /"level":50/.test(line) && !/"status":50[234]|The client left/.test(line)
        )
          logged.push(line)
    }
  }

  const start = async () => {
    const started = Bun.spawn([process.execPath, entry], {
      env: {
        PATH: process.env['PATH'],
        BUN_CONFIG_MAX_HTTP_REQUESTS: '65535',
        HOST: '127.0.0.1',
        PORT: String(settings.port),
        DATABASE_PATH: settings.databasePath,
        ADMIN_API_KEY: settings.adminKey,
        OLLAMA_BASE_URL: settings.ollamaUrl,
        UPSTREAM_FIRST_BYTE_TIMEOUT_S: '3',
        UPSTREAM_IDLE_TIMEOUT_S: '3',
        PROMPT_PREVIEW_CHARS: '60',
        LOG_LEVEL: 'error',
        LOG_FORMAT: 'json',
      },
      stdout: 'pipe',
      stderr: 'pipe',
    })
    child = started
    void collect(started.stdout)
    void collect(started.stderr)
    const until = performance.now() + READY_WITHIN_MS
    for (;;) {
      const answer = await fetch(url, { keepalive: false }).catch(() => undefined)
      if (answer?.status === 200) break
      if (started.exitCode !== null || performance.now() > until)
        throw new Error(
          `The proxy did not start (exit code ${started.exitCode}): ${logged.slice(-3).join(' | ')}`,
        )
      await Bun.sleep(10)
    }
    const outage = outages.at(-1)
    if (outage?.toMs === Number.POSITIVE_INFINITY) outage.toMs = Date.now()
  }

  return {
    url,
    logged,
    outages,
    start,
    get kills() {
      return kills
    },
    /** `kill -9`, in this very turn. */
    kill() {
      if (child === undefined || child.killed) return
      child.kill('SIGKILL')
      kills++
      outages.push({ fromMs: Date.now(), toMs: Number.POSITIVE_INFINITY })
    },
    async restart() {
      await child?.exited
      await start()
    },
    /** SIGTERM; resolves with the exit code. */
    async stop() {
      child?.kill('SIGTERM')
      return child?.exited
    },
  }
}
export type ProxyProcess = ReturnType<typeof createProxy>
