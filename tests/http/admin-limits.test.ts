import { expect, test } from 'bun:test'
import { done, pause, say } from '../../src/simulator/script.ts'
import { get, hello, type Session, spend, startSession } from './support.ts'

const all = {
  requests_per_minute: 1,
  requests_per_day: 2,
  tokens_per_minute: 3,
  tokens_per_day: 4,
  total_token_limit: 5,
}
const put = async ({ proxy }: Session, json: unknown) =>
  proxy.admin('/admin/users/alice/limits', { method: 'PUT', json })

test('of the five limits those given change: absent is unchanged, null is unlimited, 0 is nothing', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice', all)
  const changed = await put(session, { requests_per_minute: null, tokens_per_day: 0 })
  const limits = { user_id: 'alice', ...all, requests_per_minute: null, tokens_per_day: 0 }
  expect([changed.status, changed.body]).toEqual([200, limits])
  expect((await session.proxy.admin('/admin/users/alice')).body.limits).toEqual(limits)
  expect((await get(session, key, '/v1/limits')).body).toMatchObject(limits)
  const largest = await put(session, { total_token_limit: Number.MAX_SAFE_INTEGER })
  expect(largest.body.total_token_limit).toBe(Number.MAX_SAFE_INTEGER)
})

test('limits that are none are a 400 that names the field, and change nothing', async () => {
  const session = await startSession()
  await session.proxy.createUser('alice', all)
  const wrong: [unknown, string | null][] = [
    [{}, 'requests_per_minute'],
    [{ requests_per_hour: 1 }, 'requests_per_hour'],
    [{ user_id: 'alice', tokens_per_day: 1 }, 'user_id'],
    [{ tokens_per_day: -1 }, 'tokens_per_day'],
    [{ tokens_per_day: 0.5 }, 'tokens_per_day'],
    [{ tokens_per_day: '1' }, 'tokens_per_day'],
    [{ tokens_per_day: 2 ** 53 }, 'tokens_per_day'],
    [{ tokens_per_minute: 9, tokens_per_day: false }, 'tokens_per_day'],
    [[], null],
    ['unlimited', null],
  ]
  for (const [json, param] of wrong) {
    const { status, body } = await put(session, json)
    expect([json, status, body.error?.param]).toEqual([json, 400, param])
  }
  expect((await session.proxy.admin('/admin/users/alice')).body.limits).toEqual({ user_id: 'alice', ...all })
})

test('new limits hold from the next request on', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await spend(session, key)
  await put(session, { requests_per_minute: 1 })
  const ask = () => session.proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello } })
  expect((await ask()).status).toBe(429)
  await put(session, { requests_per_minute: 2 })
  expect((await ask()).status).toBe(200)
})

test('a lowered limit ends a stream in flight at its next grant', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  const key = await proxy.createUser('alice')
  ollama.next(
    ...Array.from({ length: 20 }, () => say('word ')),
    pause(),
    ...Array.from({ length: 2000 }, () => say('word ')),
    done(),
  )
  const answer = await proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: hello, stream: true },
  })
  await ollama.reached()
  await put(session, { tokens_per_minute: 1 })
  ollama.resume()
  const text = await answer.text()
  expect(text).toContain('"finish_reason":"length"')
  expect(text).toEndWith('data: [DONE]\n\n')
  expect(text.match(/word /g)?.length).toBeLessThan(2000)
})

test('a total that is raised admits again, a total lowered below use refuses, also where use came before the limit', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await spend(session, key, { prompt: 60, completion: 40 })
  const ask = async () => {
    const answer = await session.proxy.call('/v1/chat/completions', {
      key,
      json: { model: 'm', messages: hello },
    })
    return [answer.status, ((await answer.json()) as { error?: { code: string } }).error?.code]
  }
  await put(session, { total_token_limit: 100 })
  expect(await ask()).toEqual([429, 'insufficient_quota'])
  await put(session, { total_token_limit: 1000 })
  expect(await ask()).toEqual([200, undefined])
})

test('current shows what is used without what is reserved, what is reserved, and when each window is empty', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  const key = await proxy.createUser('alice', {
    ...all,
    requests_per_minute: 10,
    requests_per_day: 20,
    tokens_per_minute: 3000,
    tokens_per_day: 4000,
    total_token_limit: null,
  })
  await spend(session, key, { prompt: 10, completion: 5 })
  proxy.pass(30_000)
  ollama.next(pause(), say('ok'), done({ prompt: 10, completion: 5 }))
  const answer = proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello } })
  await ollama.reached()
  const { body } = await proxy.admin('/admin/users/alice/limits')
  expect(body).toEqual((await get(session, key, '/v1/limits')).body)
  const { current } = body
  expect(current.requests_per_minute).toEqual({
    used: 2,
    reserved: 0,
    limit: 10,
    resets_at: '2026-11-23T08:01:30.000Z',
  })
  expect(current.requests_per_day).toMatchObject({ used: 2, reserved: 0, limit: 20 })
  expect(current.tokens_per_minute).toMatchObject({ used: 15, limit: 3000 })
  expect(current.tokens_per_minute.reserved).toBeGreaterThan(0)
  expect(current.total_token_limit).toMatchObject({ used: 15, limit: null, resets_at: null })
  ollama.resume()
  await (await answer).text()
  const settled = (await get(session, key, '/v1/limits')).body.current
  for (const name of ['tokens_per_minute', 'tokens_per_day', 'total_token_limit']) {
    expect(settled[name]).toMatchObject({ used: 30, reserved: 0 })
  }
})

test('a window is empty exactly at its resets_at, which then is now', async () => {
  const session = await startSession()
  const { proxy } = session
  const key = await proxy.createUser('alice')
  await spend(session, key)
  proxy.clock.jump(3_600_000)
  const at = async () => (await get(session, key, '/v1/limits')).body.current.requests_per_minute
  expect(await at()).toMatchObject({ used: 1, resets_at: '2026-11-23T09:01:00.000Z' })
  proxy.pass(59_999)
  expect((await at()).used).toBe(1)
  proxy.pass(1)
  expect(await at()).toMatchObject({ used: 0, resets_at: '2026-11-23T09:01:00.000Z' })
  proxy.pass(1000)
  expect(await at()).toMatchObject({ used: 0, resets_at: '2026-11-23T09:01:01.000Z' })
})

/** Alice, who has used 100 tokens so long ago that the windows hold nothing of her. */
const startForgotten = async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await spend(session, key, { prompt: 60, completion: 40 })
  session.proxy.pass(2 * 86_400_000)
  for (let tick = 0; tick < 8; tick++) session.proxy.server.tick()
  const total = async () => (await get(session, key, '/v1/limits')).body.current.total_token_limit.used
  return { session, key, total }
}

test('a total shows what the ledger holds for a user whom the windows have forgotten', async () => {
  const { total } = await startForgotten()
  expect(await total()).toBe(100)
})

test('a total limit counts all use, also when an unlimited user whom the windows had forgotten comes back', async () => {
  const { session, key, total } = await startForgotten()
  await spend(session, key, { prompt: 10, completion: 5 })
  expect(await total()).toBe(115)
  await put(session, { total_token_limit: 115 })
  const refused = await session.proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: hello },
  })
  expect([refused.status, await refused.json()]).toMatchObject([
    429,
    { error: { code: 'insufficient_quota' } },
  ])
})
