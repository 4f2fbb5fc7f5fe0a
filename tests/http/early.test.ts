import { expect, test } from 'bun:test'
import { connect } from 'node:net'
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
