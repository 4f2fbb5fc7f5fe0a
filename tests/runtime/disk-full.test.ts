import { Database } from 'bun:sqlite'
import { afterAll, expect, test } from 'bun:test'
import { rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { done, pause, say } from '../../src/simulator/script.ts'
import { startSimulator } from '../../src/simulator/simulator.ts'
import { launch, temporaryFolder } from '../support/process.ts'

/** A disk of two megabytes, where this user may mount one. */
const mountSmallDisk = () => {
  const { folder, remove } = temporaryFolder()
  const mounted = Bun.spawnSync(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', folder]).exitCode === 0
  const unmount = () => {
    if (mounted) Bun.spawnSync(['umount', '-l', folder])
    remove()
  }
  return { folder, mounted, unmount }
}

const disk = mountSmallDisk()
afterAll(disk.unmount)
if (!disk.mounted)
  console.log('SKIPPED: a full disk needs a small file system, and this user may not mount one')

const fill = () => {
  const { bavail, bsize } = statfsSync(disk.folder)
  writeFileSync(join(disk.folder, 'filler'), new Uint8Array(bavail * bsize))
}

test.skipIf(!disk.mounted)('a log that cannot be written breaks no answer', async () => {
  const ollama = await startSimulator({ models: ['m'] })
  const { folder, remove } = temporaryFolder()
  const reserved = Bun.serve({ port: 0, fetch: () => new Response() })
  const { port } = reserved
  const url = `http://127.0.0.1:${port}`
  await reserved.stop(true)
  const child = Bun.spawn([process.execPath, join(import.meta.dir, '../../src/main.ts')], {
    env: {
      PATH: process.env['PATH'] ?? '',
      HOST: '127.0.0.1',
      PORT: String(port),
      ADMIN_API_KEY: 'test-admin-key',
      DATABASE_PATH: join(folder, 'proxy.db'),
      OLLAMA_BASE_URL: ollama.url,
      LOG_FORMAT: 'json',
    },
    stdout: Bun.file(join(disk.folder, 'log')),
    stderr: 'ignore',
  })
  const isUp = () =>
    fetch(`${url}/health`).then(
      answer => answer.ok,
      () => false,
    )
  while (!(await isUp()));
  const headers = { authorization: 'Bearer test-admin-key', 'content-type': 'application/json' }
  const made = await fetch(`${url}/admin/users`, { method: 'POST', headers, body: '{"user_id":"alice"}' })
  const { api_key: key } = (await made.json()) as { api_key: string }
  fill()
  ollama.otherwise(say('ok'), done())
  for (const stream of [true, false, true]) {
    const answer = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { ...headers, authorization: `Bearer ${key}` },
      body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'Hello' }], stream }),
    })
    expect(answer.status).toBe(200)
    expect(await answer.text()).toContain(stream ? '[DONE]' : '"content":"ok"')
  }
  child.kill('SIGKILL')
  await child.exited
  await ollama.close()
  rmSync(join(disk.folder, 'filler'))
  rmSync(join(disk.folder, 'log'))
  remove()
})

test.skipIf(!disk.mounted)(
  'a full disk is a 503 before anything is sent; a running stream ends; room makes it well again',
  async () => {
    const ollama = await startSimulator({ models: ['m'] })
    const path = join(disk.folder, 'proxy.db')
    const proxy = launch({ DATABASE_PATH: path, OLLAMA_BASE_URL: ollama.url })
    const url = await proxy.url()
    const headers = { authorization: 'Bearer test-admin-key', 'content-type': 'application/json' }
    const made = await fetch(`${url}/admin/users`, { method: 'POST', headers, body: '{"user_id":"alice"}' })
    const { api_key: key } = (await made.json()) as { api_key: string }
    const chat = (stream: boolean) =>
      fetch(`${url}/v1/chat/completions`, {
        method: 'POST',
        headers: { ...headers, authorization: `Bearer ${key}` },
        body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'Hello' }], stream }),
      })

    ollama.next(say('one'), pause(), say('two'), done({ prompt: 5, completion: 3 }))
    const running = await chat(true)
    await ollama.reached()
    fill()
    // Groups are appended to the log until the last page is gone.
    ollama.otherwise(say('ok'), done())
    let refused = await chat(false)
    for (let tries = 0; tries < 200 && refused.status === 200; tries++) refused = await chat(false)
    expect(refused.status).toBe(503)
    expect(refused.headers.get('retry-after')).not.toBeNull()
    expect(await refused.json()).toMatchObject({ error: { code: 'storage_full' } })
    const sent = ollama.generating().length
    expect((await chat(false)).status).toBe(503)
    expect(ollama.generating()).toHaveLength(sent)

    const health = await fetch(`${url}/health`)
    expect(health.status).toBe(503)
    expect(await health.json()).toMatchObject({ status: 'unhealthy', database: 'failed' })

    ollama.resume()
    const text = await running.text()
    expect(text.includes('[DONE]') || text.includes('"code":"storage_full"')).toBe(true)

    rmSync(join(disk.folder, 'filler'))
    let answer = await chat(false)
    // Asked until it is well again; the test's own time is the bound.
    while (answer.status !== 200) answer = await chat(false)
    proxy.child.kill('SIGKILL')
    await proxy.ended()
    await ollama.close()

    const database = new Database(path)
    expect(database.query('pragma integrity_check').get()).toEqual({ integrity_check: 'ok' })
    // The stream that was running is billed, whatever the disk said when it ended.
    expect(database.query('select completion_tokens from usage order by id limit 1').get()).toEqual({
      completion_tokens: 3,
    })
    database.close()
  },
)
