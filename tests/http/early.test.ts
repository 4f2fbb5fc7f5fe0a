import { expect, test } from 'bun:test'
import { connect } from 'node:net'
import { createEarlyRefusal } from '../../src/http/early.ts'
import { createMemoryWindows } from '../../src/limits/memory.ts'
import type { Caller } from '../../src/principals.ts'
import { done, pause, say } from '../../src/simulator/script.ts'
import { unlimited } from '../contract/window-store.ts'
import { historyOf, limitsOf } from '../support/session.ts'
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
  json: unknown = bodies[path],
) => {
  const own = authorization === undefined ? {} : { authorization }
  const answer = await proxy.call(path, { json, headers: { ...own, ...headers } })
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

const both = async (session: Session, path: string, authorization: string | undefined, json?: unknown) => {
  const early = await ask(session, path, authorization, {}, json)
  expect(await ask(session, path, authorization, plainly, json)).toEqual(early)
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

test('a refused request is admitted at the instant it was told, not a millisecond before, and reaches Ollama whole', async () => {
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

test('a request needs at the door what is learnt of its model by now', async () => {
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

test('Ollama is asked how long a context is no more often at the door than in the app', async () => {
  const session = await startSession({ simulator: { models: [{ name: 'm', contextLength: 4096 }] } })
  const { proxy, ollama } = session
  const key = await refusedTokens(session, { tokens_per_day: 2000 }, 1900)
  const json = { model: 'm', messages: [{ role: 'user', content: 'many words here. '.repeat(100) }] }
  const asked = () => ollama.requests.filter(({ path }) => path === '/api/show').length
  const refuse = async () => expect((await both(session, path, `Bearer ${key}`, json)).status).toBe(429)
  const path = '/v1/chat/completions'
  for (let time = 0; time < 3; time++) await refuse()
  expect(asked()).toBe(1)
  proxy.pass(61_000)
  for (let time = 0; time < 3; time++) await refuse()
  expect(asked()).toBe(2)
})

test('a prompt that will be cut is told so at the door too, and the next refusal is not', async () => {
  const session = await startSession({ simulator: { models: [{ name: 'm', contextLength: 1024 }] } })
  const key = await refusedTokens(session, { tokens_per_minute: 70 })
  const path = '/v1/chat/completions'
  const json = { model: 'm', messages: [{ role: 'user', content: 'many words here. '.repeat(1200) }] }
  for (let time = 0; time < 3; time++) {
    const cut = await both(session, path, `Bearer ${key}`, json)
    expect(cut.headers).toMatchObject({ 'x-prompt-truncated': 'estimated', 'x-should-retry': 'false' })
    const whole = await both(session, path, `Bearer ${key}`)
    expect(whole.headers['x-prompt-truncated']).toBeUndefined()
  }
})

test('whatever is in a body, a key without room hears the same of it at the door as in the app', async () => {
  const session = await startSession({ simulator: { models: [{ name: 'm', capabilities: ['completion'] }] } })
  const key = await refusedTokens(session, { tokens_per_minute: 70 })
  const text = (content: unknown) => [{ role: 'user', content }]
  const tool = { type: 'function', function: { name: 'f', parameters: { type: 'object' } } }
  const image = { type: 'image_url', image_url: { url: 'data:image/png;base64,iVBORw0KGgo=' } }
  const odd: Record<string, [status: number, json: unknown][]> = {
    '/v1/chat/completions': [
      [429, { model: 'm', messages: text('你好，世界。'.repeat(40)), n: 3, max_tokens: 9 }],
      [429, { model: 'm', messages: text([{ type: 'text', text: 'Hello' }]), max_completion_tokens: 0 }],
      [429, { model: 'never heard', messages: hello, stream: true }],
      [429, { model: 'M:latest', messages: hello, temperature: 0, unknown: 1 }],
      [400, { model: 'm', messages: hello, tools: [tool] }],
      [400, { model: 'm', messages: text([image]) }],
      [400, { model: 'm', messages: hello, temperature: 3 }],
      [400, { model: 'm', messages: [] }],
      [400, []],
      [403, { model: 'm:cloud', messages: hello }],
    ],
    '/v1/completions': [
      [429, { model: 'm', prompt: ['a', 'b'], n: 2 }],
      [400, { model: 'm', prompt: 'a', suffix: 'b' }],
    ],
    '/v1/embeddings': [
      [429, { model: 'm', input: ['a', 'b'] }],
      [400, { model: 'm', input: [''], dimensions: -1 }],
    ],
  }
  for (const [path, requests] of Object.entries(odd)) {
    for (const [status, json] of requests) {
      for (let time = 0; time < 2; time++)
        expect((await both(session, path, `Bearer ${key}`, json)).status).toBe(status)
    }
  }
})

test('a request for a model nobody has heard is fitted to a small limit as in the app', async () => {
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

test('each request is told its own need: by its bytes and by its endpoint', async () => {
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

test('bytes that are no request are told so to a key without room, at the door as in the app', async () => {
  const session = await startSession()
  const key = await refusedTokens(session, { tokens_per_minute: 70 })
  const path = '/v1/chat/completions'
  await both(session, path, `Bearer ${key}`)
  const whole = JSON.stringify(bodies[path])
  const odd: [status: number, body: string | Uint8Array<ArrayBuffer>][] = [
    [400, ''],
    [400, 'null'],
    [400, '{"model":NaN}'],
    [400, new Uint8Array([0x7b, 0xff, 0x7d])],
    [400, whole.replace('Hello', '\\ud800')],
    [400, `{"model":"m","messages":${'['.repeat(30_000)}${']'.repeat(30_000)}}`],
    [429, `\ufeff${whole}`],
    [429, whole.replace('{', '{"__proto__":{"n":5},')],
  ]
  for (const [status, body] of odd) {
    const answers = await Promise.all(
      [{}, plainly].map(async headers => {
        const answer = await session.proxy.call(path, { method: 'POST', key, body, headers })
        return { status: answer.status, text: await answer.text() }
      }),
    )
    expect(answers[0]?.status).toBe(status)
    expect(answers[0]).toEqual(answers[1])
  }
  expect(session.proxy.log.filter(({ level }) => level === 'error')).toEqual([])
})

test('where a body decides which limit is named, it is read though the request limit is full', async () => {
  const session = await startSession({
    simulator: { models: [{ name: 'm', capabilities: ['completion', 'vision'] }] },
  })
  const limits = limitsOf({ requests_per_minute: 1, tokens_per_minute: 90_000 })
  const key = await session.proxy.createUser('alice', limits)
  await spend(session, key)
  const path = '/v1/chat/completions'
  const image = { type: 'image_url', image_url: { url: 'http://a/' } }
  const large = { model: 'm', n: 128, messages: [{ role: 'user', content: [image] }] }
  for (let time = 0; time < 3; time++) {
    const never = await both(session, path, `Bearer ${key}`, large)
    expect(never.headers['x-should-retry']).toBe('false')
    expect(JSON.parse(never.body).error.type).toBe('tokens')
    const soon = await both(session, path, `Bearer ${key}`)
    expect(JSON.parse(soon.body).error.type).toBe('requests')
    expect((await both(session, path, `Bearer ${key}`, { model: 'm' })).status).toBe(400)
  }
})

test('from its second refusal on a key is refused at the door, on every metered path', async () => {
  const session = await startSession()
  const { windows } = session.proxy.server
  const { admit } = windows
  let ofTheApp = 0
  // Only the app asks to be admitted; the door asks why not.
  windows.admit = (...asked) => {
    ofTheApp++
    return admit(...asked)
  }
  const key = await refusedTokens(session, { tokens_per_minute: 70 })
  let isFirst = true
  for (const path of ['/v1/chat/completions', ...paths]) {
    ofTheApp = 0
    const refused = await ask(session, path, `Bearer ${key}`)
    expect(refused.status).toBe(429)
    expect(ofTheApp).toBe(isFirst ? 1 : 0)
    isFirst = false
  }
})

test('a request that the door has read began when it came there', async () => {
  const session = await startSession({
    simulator: { models: [{ name: 'm', capabilities: ['completion', 'tools'] }] },
  })
  const { proxy, ollama } = session
  const key = await refusedTokens(session, { tokens_per_minute: 2000 }, 1990)
  const path = '/v1/chat/completions'
  expect((await ask(session, path, `Bearer ${key}`)).status).toBe(429)
  proxy.pass(61_000)
  const cameMs = proxy.clock.now()
  ollama.nextAt('/api/show', pause('show'))
  ollama.next(say('ok'), done({ prompt: 20 }))
  const tools = [{ type: 'function', function: { name: 'f', parameters: { type: 'object' } } }]
  const answer = proxy.call(path, { key, json: { model: 'm', messages: hello, tools } })
  await ollama.reached('show')
  proxy.pass(5000)
  ollama.resume('show')
  const { status, headers } = await answer
  expect(status).toBe(200)
  expect(headers.get('openai-processing-ms')).toBe('5000')
  const [row] = await historyOf(proxy, key)
  expect(row).toMatchObject({ started_at: new Date(cameMs).toISOString(), duration_ms: 5000 })
  expect(row?.['request_id']).toBe(headers.get('x-request-id'))
})

test('the app does not see what a token limit refuses at the door, as long as the key lacks room', async () => {
  const limits = { ...unlimited, tokensPerMinute: 10 }
  const account = { userId: 'alice', userNumber: 1, limits }
  const caller = { account, keyId: 1, models: null, expiresAt: null, notedMs: 0 }
  const windows = createMemoryWindows()
  windows.admit(1, account.limits, { prompt: 4, usual: 1 }, 0, 0)
  const refusedLately = new WeakSet<Caller>()
  let seen: string[] = []
  let isDraining = false
  let nowMs = 1000
  const textOf = (bytes: Uint8Array | undefined) => new TextDecoder().decode(bytes)
  const refuse = createEarlyRefusal(
    {
      principals: { recall: () => caller },
      paths,
      windows,
      refusedLately,
      // A body that is a number needs so many tokens; of any other the app has something else to say.
      foresee(_caller, path, bytes) {
        const prompt = Number(textOf(bytes))
        nowMs += 7
        const forecast = { prompt, promptExpected: prompt, usual: 1 }
        return path === '/v1/embeddings' || Number.isNaN(prompt)
          ? undefined
          : { forecast, isTruncated: false }
      },
      tally: { count: () => {} },
      ids: { next: () => 1 },
      now: () => nowMs,
      steady: () => nowMs,
      isDraining: () => isDraining,
      corsOrigins: [],
    },
    (_, { early }) => {
      seen.push(textOf(early?.body))
      return new Response('app')
    },
  )
  const send = async (body: string, path = '/v1/chat/completions', more: Record<string, string> = {}) => {
    const headers = { authorization: 'Bearer sk-alice-1', 'content-length': String(body.length), ...more }
    const answer = await refuse(new Request(`http://localhost${path}`, { method: 'POST', body, headers }))
    if (answer?.status === 429) expect(answer.headers.get('openai-processing-ms')).toBe('7')
    return answer?.status
  }

  // Who was not refused is not read.
  expect(await send('9')).toBeUndefined()
  refusedLately.add(caller)
  expect(await send('9')).toBe(429)
  expect(await send('9', '/v1/completions')).toBe(429)
  expect(seen).toEqual([])
  for (const body of ['3', 'odd']) expect(await send(body)).toBe(200)
  expect(await send('8', '/v1/embeddings')).toBe(200)
  expect(seen).toEqual(['3', 'odd', '8'])
  seen = []
  // Left to the app unread: what is no JSON by its type, and what costs more to read than is saved.
  expect(await send('9', '/v1/chat/completions', { 'content-type': 'text/plain' })).toBeUndefined()
  expect(await send('9'.repeat(64 * 1024 + 1))).toBeUndefined()
  expect(await send('9'.repeat(64 * 1024))).toBe(429)
  isDraining = true
  expect(await send('9')).toBeUndefined()
  expect(seen).toEqual([])
  // The server begins to stop while a body is read: the app says so.
  isDraining = false
  const read = send('9')
  isDraining = true
  expect(await read).toBe(200)
  expect(seen).toEqual(['9'])
  isDraining = false
  // A full request limit needs no body, though this caller's bodies are read.
  account.limits = { ...account.limits, tokensPerMinute: 100_000_000, requestsPerMinute: 1 }
  const unread = { authorization: 'Bearer sk-alice-1', 'content-length': '500' }
  const path = '/v1/chat/completions'
  const atOnce = refuse(new Request(`http://localhost${path}`, { method: 'POST', headers: unread }))
  expect(atOnce).toBeInstanceOf(Response)
})

test('what was refused for its length is let in when Ollama tells of a context that cuts it', async () => {
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
