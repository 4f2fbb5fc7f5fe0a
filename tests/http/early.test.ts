import { expect, test } from 'bun:test'
import { connect } from 'node:net'
import { createEarlyRefusal } from '../../src/http/early.ts'
import { Repeats } from '../../src/http/repeats.ts'
import { createMemoryWindows } from '../../src/limits/memory.ts'
import { sha256 } from '../../src/runtime/secrets.ts'
import { done, say } from '../../src/simulator/script.ts'
import { unlimited } from '../contract/window-store.ts'
import { limitsOf } from '../support/session.ts'
import { hello, type Session, spend, startSession } from './support.ts'

const paths = ['/v1/chat/completions', '/v1/completions', '/v1/embeddings']
const bodies: Record<string, unknown> = {
  '/v1/chat/completions': { model: 'm', messages: hello },
  '/v1/completions': { model: 'm', prompt: 'Hello' },
  '/v1/embeddings': { model: 'm', input: 'Hello' },
}

const ask = async (
  { proxy }: Session,
  path: string,
  authorization: string | undefined,
  headers: Record<string, string> = {},
) => {
  const own = authorization === undefined ? {} : { authorization }
  const answer = await proxy.call(path, { json: bodies[path], headers: { ...own, ...headers } })
  const {
    date: _,
    'x-client-request-id': __,
    'x-request-id': id,
    ...rest
  } = Object.fromEntries(answer.headers)
  expect(id).toStartWith('req_')
  return { status: answer.status, headers: rest, body: await answer.text() }
}

/** A request that brings an id of its own is left to the app: the plain version of the same refusal. */
const plainly = { 'x-request-id': 'a-client-of-its-own' }

const both = async (session: Session, path: string, authorization: string | undefined) => {
  const early = await ask(session, path, authorization)
  expect(await ask(session, path, authorization, plainly)).toEqual(early)
  return early
}

test('a missing key, a strange one and one too long are refused at the door as in the app', async () => {
  const session = await startSession()
  for (const path of paths) {
    for (const authorization of [
      undefined,
      'Basic abc',
      'Bearer sk-nobody-0123456789',
      `Bearer ${'x'.repeat(300)}`,
    ]) {
      // Asked for the first time a strange key is looked up, from then on it is known to be one.
      for (let time = 0; time < 2; time++) {
        expect((await both(session, path, authorization)).status).toBe(401)
      }
    }
  }
})

test('a revoked key is refused from the next request on, and a new one admitted', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await spend(session, key)
  const { body } = await session.proxy.admin('/admin/users/alice/keys')
  await session.proxy.admin(`/admin/users/alice/keys/${body.data[0].id}`, { method: 'DELETE' })
  for (const path of paths) expect((await both(session, path, `Bearer ${key}`)).status).toBe(401)
  const renewed = await session.proxy.admin('/admin/users/alice/keys', { json: {} })
  await spend(session, renewed.body.api_key)
})

test('an expired key is refused at its instant, at the door too', async () => {
  const session = await startSession()
  await session.proxy.createUser('alice')
  const expires_at = new Date(session.proxy.clock.now() + 5000).toISOString()
  const { body } = await session.proxy.admin('/admin/users/alice/keys', { json: { expires_at } })
  await spend(session, body.api_key)
  session.proxy.pass(4999)
  await spend(session, body.api_key)
  session.proxy.pass(1)
  expect((await both(session, '/v1/chat/completions', `Bearer ${body.api_key}`)).status).toBe(401)
  // Longer life brings it back, also after it was refused.
  await session.proxy.admin(`/admin/users/alice/keys/${body.key.id}`, {
    method: 'PATCH',
    json: { expires_at: null },
  })
  await spend(session, body.api_key)
})

for (const name of ['requests_per_minute', 'requests_per_day']) {
  test(`a full ${name} is told at the door as in the app, on every metered path`, async () => {
    const session = await startSession()
    const limits = limitsOf({ [name]: 2, tokens_per_day: 10_000_000 })
    const key = await session.proxy.createUser('alice', limits)
    await spend(session, key)
    session.proxy.pass(1234)
    await spend(session, key)
    for (const path of paths) {
      const early = await both(session, path, `Bearer ${key}`)
      expect(early.status).toBe(429)
      expect(early.headers['x-ratelimit-remaining-requests']).toBe('0')
      expect(early.headers['retry-after-ms']).toBeDefined()
      expect(JSON.parse(early.body).error.type).toBe('requests')
    }
  })
}

test('a limit of 0 and one that was just raised hold at the door', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice', limitsOf({ requests_per_minute: 1 }))
  await spend(session, key)
  const bearer = `Bearer ${key}`
  const path = '/v1/chat/completions'
  expect((await both(session, path, bearer)).status).toBe(429)
  const set = (limit: number) =>
    session.proxy.admin('/admin/users/alice/limits', { method: 'PUT', json: { requests_per_minute: limit } })
  await set(0)
  expect((await both(session, path, bearer)).headers['x-should-retry']).toBe('false')
  await set(2)
  await spend(session, key)
  expect((await both(session, path, bearer)).status).toBe(429)
})

test('where a token limit has the longer wait it is the one that is named', async () => {
  const session = await startSession()
  const limits = limitsOf({ requests_per_minute: 1, tokens_per_day: 70 })
  const key = await session.proxy.createUser('alice', limits)
  await spend(session, key, { prompt: 50, completion: 15 })
  const answer = await both(session, '/v1/chat/completions', `Bearer ${key}`)
  expect(JSON.parse(answer.body).error.message).toContain('tokens per day')
})

test('refusals at the door are counted, cost nothing and reach no model server', async () => {
  const session = await startSession()
  const { proxy, ollama } = session
  const key = await proxy.createUser('alice', limitsOf({ requests_per_minute: 1 }))
  await spend(session, key)
  const received = ollama.generating().length
  for (let time = 0; time < 5; time++) await ask(session, '/v1/chat/completions', `Bearer ${key}`)
  proxy.pass(59_000)
  expect((await ask(session, '/v1/chat/completions', `Bearer ${key}`)).status).toBe(429)
  proxy.pass(1000)
  await spend(session, key)
  expect(ollama.generating().length).toBe(received + 1)
  proxy.pass(60_000)
  const line = proxy.log.find(({ message }) => message === 'requests refused in the last minute')
  expect(line?.['refused']).toEqual({ '429 rate_limit_exceeded': 6 })
  const usage = await proxy.call('/v1/usage', { key })
  expect(JSON.stringify(await usage.json())).toContain('"request_count":2')
})

test('a full request limit is told before the body is sent', async () => {
  const session = await startSession()
  const { proxy } = session
  const key = await proxy.createUser('alice', limitsOf({ requests_per_minute: 1 }))
  await spend(session, key)
  const { promise: answered, resolve } = Promise.withResolvers<string>()
  const socket = connect(proxy.port, '127.0.0.1')
  socket.on('data', data => resolve(data.toString()))
  const head = `Host: localhost\r\nAuthorization: Bearer ${key}\r\nContent-Type: application/json\r\nContent-Length: 500`
  socket.write(`POST /v1/chat/completions HTTP/1.1\r\n${head}\r\n\r\n`)
  expect(await answered).toStartWith('HTTP/1.1 429')
  socket.destroy()
})

const refusedTokens = async (session: Session, limits: Record<string, number>, used = 65) => {
  const key = await session.proxy.createUser('alice', limitsOf(limits))
  await spend(session, key, { prompt: used - 15, completion: 15 })
  return key
}

for (const name of ['tokens_per_minute', 'tokens_per_day', 'total_token_limit']) {
  test(`what a full ${name} refuses is told the same however often it is sent, on every metered path`, async () => {
    const session = await startSession()
    const key = await refusedTokens(session, { [name]: 70, requests_per_minute: 100 })
    const headers = {
      [name === 'total_token_limit' ? 'x-should-retry' : 'retry-after-ms']: expect.any(String),
    }
    for (const path of paths) {
      for (let time = 0; time < 4; time++) {
        session.proxy.pass(7)
        const refused = await both(session, path, `Bearer ${key}`)
        expect(refused.status).toBe(429)
        expect(refused.headers).toMatchObject(headers)
        expect(JSON.parse(refused.body).error.message).toContain(
          name === 'total_token_limit' ? 'in total' : 'per ',
        )
      }
    }
  })
}

test('a repeat is admitted at the instant it was told, not a millisecond before, and reaches Ollama whole', async () => {
  const session = await startSession()
  const { proxy, ollama } = session
  const key = await refusedTokens(session, { tokens_per_minute: 70 })
  const send = () => ask(session, '/v1/chat/completions', `Bearer ${key}`)
  for (let time = 0; time < 3; time++) expect((await send()).status).toBe(429)
  const waitMs = Number((await send()).headers['retry-after-ms'])
  proxy.pass(waitMs - 1)
  expect((await send()).headers['retry-after-ms']).toBe('1')
  proxy.pass(1)
  expect((await send()).status).toBe(200)
  expect(ollama.generating().at(-1)?.body).toMatchObject({ model: 'm', messages: hello })
  // It has room, so nothing is expected of it any more; and it can be refused again.
  for (let time = 0; time < 3; time++) await both(session, '/v1/chat/completions', `Bearer ${key}`)
})

test('a repeat needs what its like needs by now, when more is learnt of the model', async () => {
  const session = await startSession()
  const { proxy } = session
  const key = await refusedTokens(session, { tokens_per_minute: 70 })
  const needed = async () => {
    const { body } = await both(session, '/v1/chat/completions', `Bearer ${key}`)
    return Number(/needs (\d+)/.exec(body)?.[1])
  }
  for (let time = 0; time < 3; time++) await needed()
  const before = await needed()
  const other = await proxy.createUser('bob')
  for (let time = 0; time < 40; time++) await spend(session, other, { prompt: 9 })
  expect(await needed()).toBeLessThan(before)
})

test('a repeat asks nobody: neither the app nor, for a long prompt, Ollama how long the context is', async () => {
  const session = await startSession({ simulator: { models: [{ name: 'm', contextLength: 4096 }] } })
  const { proxy, ollama } = session
  const key = await refusedTokens(session, { tokens_per_day: 2000 }, 1900)
  const json = { model: 'm', messages: [{ role: 'user', content: 'many words here. '.repeat(100) }] }
  const asked = () => ollama.requests.filter(({ path }) => path === '/api/show').length
  const refuse = async () =>
    expect((await proxy.call('/v1/chat/completions', { key, json })).status).toBe(429)
  await refuse()
  const once = asked()
  expect(once).toBeGreaterThan(0)
  proxy.pass(30_000)
  await refuse()
  // What Ollama said is not believed any more, the repeat is.
  proxy.pass(31_000)
  await refuse()
  expect(asked()).toBe(once)
  proxy.pass(30_000)
  await refuse()
  expect(asked()).toBe(once + 1)
})

test('a repeat for a model nobody has heard is fitted to a small limit as in the app', async () => {
  const session = await startSession()
  const key = await refusedTokens(session, { tokens_per_minute: 50 }, 45)
  const send = async (headers: Record<string, string> = {}) => {
    const json = { model: 'unheard', messages: hello }
    const answer = await session.proxy.call('/v1/chat/completions', { key, json, headers })
    expect(Number(answer.headers.get('retry-after-ms'))).toBeGreaterThan(59_000)
    return answer.text()
  }
  for (let time = 0; time < 3; time++) expect(await send()).toBe(await send(plainly))
})

test('only the very same request is a repeat: not other bytes, nor the same for another endpoint', async () => {
  const session = await startSession()
  const { proxy } = session
  const key = await refusedTokens(session, { tokens_per_minute: 100 })
  const needed = async (path: string, json: unknown) => {
    const answer = await proxy.call(path, { key, json })
    expect(answer.status).toBe(429)
    return Number(/needs (\d+)/.exec(await answer.text())?.[1])
  }
  const chat = (content: string) => ({ model: 'm', prompt: 'Hello', messages: [{ role: 'user', content }] })
  const first = chat('so many words need more room than fits')
  const second = chat('x'.repeat(38))
  const expected = {
    first: await needed('/v1/chat/completions', first),
    second: await needed('/v1/chat/completions', second),
  }
  expect(expected.first).not.toBe(expected.second)
  for (let time = 0; time < 3; time++) {
    expect(await needed('/v1/chat/completions', first)).toBe(expected.first)
    expect(await needed('/v1/chat/completions', second)).toBe(expected.second)
  }
  const answer = await proxy.call('/v1/completions', { key, json: first })
  expect(await answer.text()).not.toContain(`needs ${expected.first}.`)
})

test('a key that may not use the model any more hears so, also when it repeats what was refused', async () => {
  const session = await startSession()
  const { proxy } = session
  const key = await refusedTokens(session, { tokens_per_minute: 70 })
  for (let time = 0; time < 3; time++) await both(session, '/v1/chat/completions', `Bearer ${key}`)
  const { body } = await proxy.admin('/admin/users/alice/keys')
  const set = (models: string[] | null) =>
    proxy.admin(`/admin/users/alice/keys/${body.data[0].id}`, { method: 'PATCH', json: { models } })
  await set(['other'])
  expect((await both(session, '/v1/chat/completions', `Bearer ${key}`)).status).toBe(403)
  await set(null)
  expect((await both(session, '/v1/chat/completions', `Bearer ${key}`)).status).toBe(429)
})

test('what is wrong with a body is told though others of the same key were refused', async () => {
  const session = await startSession()
  const { proxy } = session
  const key = await refusedTokens(session, { tokens_per_minute: 70 })
  for (let time = 0; time < 3; time++) await both(session, '/v1/chat/completions', `Bearer ${key}`)
  const path = '/v1/chat/completions'
  expect((await proxy.call(path, { key, json: { model: 'm' } })).status).toBe(400)
  expect((await proxy.call(path, { method: 'POST', key, body: '{"model":' })).status).toBe(400)
  const gzip = Bun.gzipSync(JSON.stringify(bodies[path]))
  const packed = { 'content-encoding': 'gzip', 'content-type': 'application/json' }
  expect((await proxy.call(path, { method: 'POST', key, body: gzip, headers: packed })).status).toBe(429)
})

test('the app does not see what is refused at the door: eight repeats a key, and only while it lacks room', async () => {
  const limits = { ...unlimited, tokensPerMinute: 10 }
  const account = { userId: 'alice', userNumber: 1, limits }
  const caller = { account, keyId: 1, models: null, expiresAt: null, notedMs: 0 }
  const windows = createMemoryWindows()
  windows.admit(1, account.limits, { prompt: 4, usual: 6 }, 0, 0)
  const repeats = new Repeats()
  let seen: string[] = []
  let nowMs = 1000
  let isDraining = false
  const refuse = createEarlyRefusal(
    {
      principals: { recall: () => caller },
      windows,
      repeats,
      tally: { count: () => {} },
      ids: { next: () => 1 },
      steady: () => nowMs,
      isDraining: () => isDraining,
      sha256,
      corsOrigins: [],
    },
    (_, { earlyBody }) => {
      seen.push(new TextDecoder().decode(earlyBody?.bytes))
      return new Response('app')
    },
  )
  const path = '/v1/chat/completions'
  const send = async (body: string) => {
    const headers = { authorization: 'Bearer sk-alice-1', 'content-length': String(body.length) }
    return (await refuse(new Request(`http://localhost${path}`, { method: 'POST', body, headers })))?.status
  }
  const needs = (prompt: number) => () => ({ prompt, promptExpected: prompt, usual: 1 })

  expect(await send('a')).toBeUndefined()
  repeats.refused(caller, undefined, nowMs)
  expect(await send('a')).toBe(200)
  expect(seen).toEqual(['a'])
  for (const letter of 'abcdefghi')
    repeats.refused(caller, { path, digest: sha256(letter), forecast: needs(3) }, nowMs)
  seen = []
  for (const letter of 'ihgfedcba') await send(letter)
  expect(seen).toEqual(['a'])
  expect(await send('i')).toBe(429)
  // While the server stops, and after a minute, the app looks at it anew.
  isDraining = true
  expect(await send('i')).toBeUndefined()
  isDraining = false
  nowMs += 59_000
  nowMs += 999
  expect(await send('i')).toBe(429)
  nowMs += 1
  expect(await send('i')).toBe(200)
  repeats.refused(caller, { path, digest: sha256('i'), forecast: needs(0) }, nowMs)
  account.limits.tokensPerMinute = 12
  expect(await send('i')).toBe(200)
  // A full request limit needs no body, though this caller's bodies are told apart.
  account.limits = { ...account.limits, tokensPerMinute: 100_000_000, requestsPerMinute: 1 }
  windows.admit(1, account.limits, { prompt: 1, usual: 1 }, 0, nowMs)
  const unread = { authorization: 'Bearer sk-alice-1', 'content-length': '500' }
  const atOnce = refuse(new Request(`http://localhost${path}`, { method: 'POST', headers: unread }))
  expect(atOnce).toBeInstanceOf(Response)
  account.limits = { ...account.limits, requestsPerMinute: 1000 }
  repeats.admitted(caller)
  expect(await send('i')).toBeUndefined()
})

test('a repeat that was refused for its length is let in when Ollama tells of a context that cuts it', async () => {
  const session = await startSession()
  const { proxy, ollama } = session
  const key = await refusedTokens(session, { tokens_per_minute: 2000 })
  const json = { model: 'big', messages: [{ role: 'user', content: 'many words here. '.repeat(1200) }] }
  const send = async () => (await proxy.call('/v1/chat/completions', { key, json })).status
  for (let time = 0; time < 3; time++) expect(await send()).toBe(429)
  ollama.catalogue.add({ name: 'big', contextLength: 1024 })
  proxy.pass(3000)
  ollama.next(say('ok'), done({ prompt: 1024 }))
  expect(await send()).toBe(200)
})

test('a type that is no JSON is told so though the same bytes were refused', async () => {
  const session = await startSession()
  const key = await refusedTokens(session, { tokens_per_minute: 70 })
  const path = '/v1/chat/completions'
  for (let time = 0; time < 3; time++) await both(session, path, `Bearer ${key}`)
  const body = JSON.stringify(bodies[path])
  const headers = { 'content-type': 'text/plain' }
  expect((await session.proxy.call(path, { method: 'POST', key, body, headers })).status).toBe(415)
})

test('a client that leaves before its body has come is no fault of the server, at the door or in the app', async () => {
  const session = await startSession()
  const { proxy } = session
  const key = await refusedTokens(session, { tokens_per_minute: 70 })
  const head = `Host: localhost\r\nAuthorization: Bearer ${key}\r\nContent-Type: application/json\r\nContent-Length: 500`
  const path = '/v1/chat/completions'
  const brokenOff = () =>
    proxy.log.filter(({ refused }) => JSON.stringify(refused ?? {}).includes('400 invalid_request_error'))
      .length
  for (const time of [1, 2]) {
    const socket = connect(proxy.port, '127.0.0.1')
    socket.write(`POST ${path} HTTP/1.1\r\n${head}\r\n\r\n{"model":`, () => socket.destroy())
    while (brokenOff() < time) {
      await new Promise(resolve => setImmediate(resolve))
      proxy.pass(60_000)
    }
    // From the second time on its body is read at the door.
    await spend(session, key, { prompt: 50, completion: 15 })
    expect((await ask(session, path, `Bearer ${key}`)).status).toBe(429)
  }
  expect(proxy.log.filter(({ level }) => level === 'error')).toEqual([])
})
