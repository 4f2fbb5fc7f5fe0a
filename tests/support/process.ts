/** The program as a process of its own: what a person starts, signals and kills. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const root = resolve(import.meta.dir, '../..')

/** A folder of its own, for a database file. */
export const temporaryFolder = () => {
  const folder = mkdtempSync(join(tmpdir(), 'ai-usage-proxy-'))
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) }
}

/** Starts the program (or another entry) as `bun run start` does, with these settings and no others. */
export const launch = (settings: Record<string, string>, entry = 'src/main.ts') => {
  const child = Bun.spawn([process.execPath, '--max-http-header-size=262144', join(root, entry)], {
    cwd: settings['CWD'] ?? tmpdir(),
    env: {
      PATH: process.env['PATH'] ?? '',
      HOME: tmpdir(),
      HOST: '127.0.0.1',
      PORT: '0',
      ADMIN_API_KEY: 'test-admin-key',
      OLLAMA_BASE_URL: 'http://127.0.0.1:9',
      LOG_FORMAT: 'json',
      ...settings,
    },
    stdout: 'pipe',
    stderr: 'pipe',
  })
  let output = ''
  const watchers = new Set<() => void>()
  const reading = (async () => {
    for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
      output += part
      for (const look of watchers) look()
    }
    for (const look of watchers) look()
  })()

  /** Resolves when the standard output holds this; rejects when the process ends before. */
  const says = (pattern: RegExp): Promise<RegExpExecArray> =>
    new Promise((resolve_, reject) => {
      const look = () => {
        const found = pattern.exec(output)
        if (found !== null) resolve_(found)
        else if (child.exitCode !== null) reject(new Error(`ended without saying ${pattern}: ${output}`))
        else return
        watchers.delete(look)
      }
      watchers.add(look)
      void child.exited.then(look)
      look()
    })

  return {
    child,
    says,
    /** The base URL, once it listens. */
    async url() {
      const [, port] = await says(/localhost:(\d+)\/v1/)
      return `http://127.0.0.1:${port}`
    },
    /** Exit code, standard output and standard error, once it has ended. */
    async ended() {
      const [code, errors] = await Promise.all([child.exited, new Response(child.stderr).text(), reading])
      return { code, output, errors }
    },
  }
}
