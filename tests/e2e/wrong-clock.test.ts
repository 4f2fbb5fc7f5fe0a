import { expect, test } from 'bun:test'
import { join } from 'node:path'
import { done, say } from '../../src/simulator/script.ts'
import { startSimulator } from '../../src/simulator/simulator.ts'
import { temporaryFolder } from '../support/process.ts'
import { createClock, START_MS, startProxy } from '../support/proxy.ts'

const DAY_MS = 86_400_000

test('rows of a clock once a year ahead lock nobody out after a restart, and date nothing that follows', async () => {
  const { folder, remove } = temporaryFolder()
  const ollama = await startSimulator({ models: ['m'] })
  const settings = { DATABASE_PATH: join(folder, 'proxy.db'), DEFAULT_REQUESTS_PER_DAY: '1' }
  ollama.otherwise(say('ok'), done())
  const json = { model: 'm', messages: [{ role: 'user', content: 'Hello' }] }

  const wrong = await startProxy({
    ollamaUrl: ollama.url,
    settings,
    clock: createClock(START_MS + 400 * DAY_MS),
  })
  const { body } = await wrong.admin('/admin/users', { json: { user_id: 'alice' } })
  const { api_key: key } = body as { api_key: string }
  expect((await wrong.call('/v1/chat/completions', { key, json })).status).toBe(200)
  await wrong.stop()

  const right = await startProxy({ ollamaUrl: ollama.url, settings, clock: createClock() })
  expect((await right.call('/v1/chat/completions', { key, json })).status).toBe(200)
  expect((await right.call('/v1/chat/completions', { key, json })).status).toBe(429)
  const history = await right.call('/v1/usage/history', { key })
  const { data } = (await history.json()) as { data: { started_at: string }[] }
  expect(data.map(row => row.started_at.slice(0, 4))).toEqual(['2027', '2026'])
  await right.stop()
  await ollama.close()
  remove()
})
