import { expect, test } from 'bun:test'
import { Hono } from 'hono'
import type { AppEnv } from '../../src/http/env.ts'
import { type LimitDeps, limit } from '../../src/http/limit.ts'
import { createMemoryWindows } from '../../src/limits/memory.ts'
import type { Caller } from '../../src/principals.ts'
import { unlimited } from '../contract/window-store.ts'

/** `limit` alone: who asks, what for, and whether its body was read at the door. */
const setUp = (limits: Partial<typeof unlimited>) => {
  const account = { userId: 'alice', userNumber: 1, limits: { ...unlimited, ...limits } }
  const caller: Caller = { account, keyId: 1, models: null, expiresAt: null, notedMs: 0 }
  const refusedLately = new WeakSet<Caller>()
  const deps = {
    windows: createMemoryWindows(),
    store: { settledTotal: async () => 0 } as unknown as LimitDeps['store'],
    refusedLately,
    steady: () => 1000,
    modelId: async () => 1,
    priceOf: () => ({ input: 0, output: 0 }),
  }
  const app = new Hono<AppEnv>()
  app.onError(() => new Response(null, { status: 429 }))
  app.use(async (c, next) => {
    const prompt = Number(c.req.query('prompt'))
    c.set('caller', caller)
    c.set('ask', { forecast: { prompt, promptExpected: prompt, usual: 1 }, model: 'm' })
    await next()
  })
  app.get('/', limit(deps), c => c.text('admitted'))
  const early = { id: 1, arrivedMs: 1000, arrivedSteadyMs: 1000, body: new Uint8Array() }
  const ask = async (prompt: number, isEarly = false) => {
    const answer = await app.request(`/?prompt=${prompt}`, {}, isEarly ? { early } : {})
    return { status: answer.status, isNoted: refusedLately.has(caller) }
  }
  return { ask }
}

test('a key that a token limit refused is read at the door until one of its bodies from there has room', async () => {
  const { ask } = setUp({ tokensPerMinute: 100 })
  expect(await ask(10)).toEqual({ status: 200, isNoted: false })
  expect(await ask(200)).toEqual({ status: 429, isNoted: true })
  // This one did not come by the door: it is too long to be read there, say.
  expect(await ask(10)).toEqual({ status: 200, isNoted: true })
  expect(await ask(10, true)).toEqual({ status: 200, isNoted: false })
})

test('a key that a request limit refused is read at the door too, where that limit alone does not decide', async () => {
  const { ask } = setUp({ requestsPerMinute: 0 })
  expect(await ask(10)).toEqual({ status: 429, isNoted: true })
})
