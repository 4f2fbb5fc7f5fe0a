import { expect, test } from 'bun:test'
import { Hono } from 'hono'
import { type PublicDeps, publicRoutes } from '../../src/http/public.ts'
import { createClock } from '../support/proxy.ts'
import { startSession } from './support.ts'

test('GET / says what answers here, without a key', async () => {
  const { proxy } = await startSession()
  const response = await proxy.call('/')
  expect([response.status, await response.json()]).toEqual([
    200,
    { status: 'ok', service: 'ai-usage-proxy', version: '0.0.0-test' },
  ])
})

test('GET /health says how Ollama and the database are, without a key', async () => {
  const { proxy } = await startSession()
  proxy.pass(61_500)
  const response = await proxy.call('/health')
  expect([response.status, await response.json()]).toEqual([
    200,
    { status: 'healthy', ollama: 'reachable', database: 'ok', version: '0.0.0-test', uptime_seconds: 61 },
  ])
})

test('Ollama being away does not make the proxy unhealthy', async () => {
  const { ollama, proxy } = await startSession()
  await ollama.close()
  const response = await proxy.call('/health')
  expect([response.status, await response.json()]).toMatchObject([
    200,
    { status: 'healthy', ollama: 'unreachable' },
  ])
})

/** The routes alone, over an Ollama and a database in the test's hand. */
const health = (overrides: Partial<PublicDeps> & { version?: string }) => {
  const clock = createClock()
  const logged: string[] = []
  const ignore = () => undefined
  const log = {
    debug: ignore,
    info: ignore,
    warn: ignore,
    error: (_: unknown, message: string) => void logged.push(message),
  }
  const deps = {
    version: '1',
    steady: clock.steady,
    log,
    store: { probe: async () => undefined },
    ...overrides,
  }
  const app = new Hono().route('/', publicRoutes(deps as PublicDeps))
  return {
    clock,
    logged,
    async ask() {
      const response = await app.request('/health')
      return { status: response.status, body: (await response.json()) as Record<string, unknown> }
    },
  }
}

test('a database that fails makes it unhealthy: 503, its cause in the log', async () => {
  const upstream = { version: async () => '1' } as PublicDeps['upstream']
  const store = { probe: () => Promise.reject(new Error('disk I/O error')) } as unknown as PublicDeps['store']
  const { ask, logged } = health({ upstream, store })
  expect(await ask()).toEqual({
    status: 503,
    body: { status: 'unhealthy', ollama: 'reachable', database: 'failed', version: '1', uptime_seconds: 0 },
  })
  expect(logged).toHaveLength(1)
})

test('Ollama is asked once in ten seconds, however often health is', async () => {
  let asked = 0
  let answer: string | undefined = '1'
  const upstream = {
    async version() {
      asked++
      return answer
    },
  } as PublicDeps['upstream']
  const { ask, clock } = health({ upstream })
  await Promise.all(Array.from({ length: 50 }, ask))
  answer = undefined
  clock.pass(9_999)
  expect((await ask()).body['ollama']).toBe('reachable')
  expect(asked).toBe(1)
  clock.pass(1)
  expect((await ask()).body['ollama']).toBe('unreachable')
  expect(asked).toBe(2)
})

test('an Ollama that accepts and never answers does not hold up health, nor is it asked twice at a time', async () => {
  let asked = 0
  const answers: ((version: string) => void)[] = []
  const upstream = {
    version() {
      asked++
      return new Promise<string>(resolve => answers.push(resolve))
    },
  } as unknown as PublicDeps['upstream']
  const { ask, clock } = health({ upstream })
  const began = performance.now()
  expect((await ask()).body['ollama']).toBe('unreachable')
  for (let times = 0; times < 20; times++) expect((await ask()).body['ollama']).toBe('unreachable')
  expect(performance.now() - began).toBeLessThan(1000)
  expect(asked).toBe(1)
  answers[0]?.('1')
  await Bun.sleep(0)
  expect((await ask()).body['ollama']).toBe('reachable')
  clock.pass(20_000)
  expect((await ask()).body['ollama']).toBe('reachable')
  expect(asked).toBe(2)
})
