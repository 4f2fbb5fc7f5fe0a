/** What every answer carries, good or bad, and what a browser must be told (issue 6, point 10). */
import { describe, expect, test } from 'bun:test'
import OpenAI from 'openai'
import { reset, say } from '../../src/simulator/script.ts'
import { errorBody } from '../support/contract.ts'
import type { Proxy as RunningProxy } from '../support/proxy.ts'
import { hello, startSession } from '../support/session.ts'

const chat = { model: 'm', messages: hello }

type Probe = [name: string, status: number, send: (proxy: RunningProxy, key: string) => Promise<Response>]

/** One answer of each kind under /v1. */
const answers: Probe[] = [
  ['a plain answer', 200, (proxy, key) => proxy.call('/v1/chat/completions', { key, json: chat })],
  [
    'a stream',
    200,
    (proxy, key) => proxy.call('/v1/chat/completions', { key, json: { ...chat, stream: true } }),
  ],
  [
    'a completion',
    200,
    (proxy, key) => proxy.call('/v1/completions', { key, json: { model: 'm', prompt: 'x' } }),
  ],
  ['the models', 200, (proxy, key) => proxy.call('/v1/models', { key })],
  ['the account', 200, (proxy, key) => proxy.call('/v1/usage', { key })],
  ['a bad request', 400, (proxy, key) => proxy.call('/v1/chat/completions', { key, json: { model: 'm' } })],
  [
    'no JSON',
    400,
    (proxy, key) =>
      proxy.call('/v1/chat/completions', {
        key,
        method: 'POST',
        body: '{',
        headers: { 'content-type': 'application/json' },
      }),
  ],
  ['no key', 401, proxy => proxy.call('/v1/chat/completions', { json: chat })],
  ['a wrong key', 401, proxy => proxy.call('/v1/models', { key: 'sk-alice-nonsense' })],
  [
    'an unknown model',
    404,
    (proxy, key) => proxy.call('/v1/chat/completions', { key, json: { ...chat, model: 'nobody' } }),
  ],
  ['an unknown path', 404, (proxy, key) => proxy.call('/v1/nonsense', { key })],
  ['a wrong method', 405, (proxy, key) => proxy.call('/v1/chat/completions', { key })],
  [
    'another type',
    415,
    (proxy, key) =>
      proxy.call('/v1/chat/completions', {
        key,
        method: 'POST',
        body: 'x',
        headers: { 'content-type': 'text/plain' },
      }),
  ],
]

describe('every answer under /v1 says who it is and how long it took', () => {
  for (const [name, status, send] of answers) {
    test(name, async () => {
      const { ollama, proxy } = await startSession()
      const key = await proxy.createUser('alice')
      ollama.forModel('m', say('hi'))
      const answer = await send(proxy, key)
      expect(answer.status).toBe(status)
      expect(answer.headers.get('x-request-id')).toMatch(/^req_[0-9a-z]{20}$/)
      expect(answer.headers.get('openai-version')).toBe('2020-10-01')
      expect(answer.headers.get('openai-processing-ms')).toMatch(/^\d+$/)
      expect(answer.headers.get('x-client-request-id')).toBeNull()
      if (status >= 400) errorBody.parse(await answer.json())
      else await answer.body?.cancel()
    })
  }
})

test('each request has an id of its own, whatever the client says', async () => {
  const { proxy } = await startSession()
  const key = await proxy.createUser('alice')
  const ids = await Promise.all(
    Array.from({ length: 20 }, async () =>
      (await proxy.call('/v1/models', { key, headers: { 'x-request-id': 'mine' } })).headers.get(
        'x-request-id',
      ),
    ),
  )
  expect(new Set(ids).size).toBe(20)
})

test('a client’s request id comes back as x-client-request-id, on errors too, and only if it is harmless', async () => {
  const { proxy } = await startSession()
  const key = await proxy.createUser('alice')
  const echo = async (id: string, path = '/v1/models') => {
    const answer = await proxy.call(path, { key, headers: { 'x-request-id': id } })
    await answer.body?.cancel()
    return answer.headers.get('x-client-request-id')
  }
  expect(await echo('trace-42')).toBe('trace-42')
  expect(await echo('a b~!{}')).toBe('a b~!{}')
  expect(await echo('x'.repeat(128))).toBe('x'.repeat(128))
  expect(await echo('x'.repeat(129))).toBeNull()
  expect(await echo('caf\u00e9')).toBeNull()
  expect(await echo('trace-43', '/v1/nonsense')).toBe('trace-43')
  expect(await echo('trace-44', '/nonsense')).toBe('trace-44')
})

test('the SDK finds the id of an answer and of an error', async () => {
  const { ollama, proxy } = await startSession()
  const sdk = proxy.sdk(await proxy.createUser('alice'))
  ollama.next(say('hi'))
  const answer = await sdk.chat.completions.create(chat)
  expect(answer._request_id).toMatch(/^req_/)
  const error = await sdk.chat.completions.create({ ...chat, model: 'nobody' }).catch(thrown => thrown)
  expect(error).toBeInstanceOf(OpenAI.NotFoundError)
  expect(error.requestID).toMatch(/^req_/)
})

test('answers outside /v1 have an id too', async () => {
  const { proxy } = await startSession()
  for (const path of ['/', '/health', '/nonsense', '/admin/users', '/favicon.ico']) {
    const answer = await proxy.call(path)
    expect(answer.headers.get('x-request-id')).toMatch(/^req_/)
    if (answer.status >= 400) errorBody.parse(await answer.json())
    else await answer.body?.cancel()
  }
})

test('what was ignored is named, so that a person finds out why a setting has no effect', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.next(say('hi'))
  const ignored = {
    logit_bias: { 50256: -100 },
    store: true,
    num_ctx: 9,
    keep_alive: '5m',
    options: { num_ctx: 9, top_k: 3 },
    'odd\r\nname': 1,
  }
  const answer = await proxy.call('/v1/chat/completions', { key, json: { ...chat, ...ignored } })
  const named = answer.headers.get('x-ignored-parameters')?.split(', ')
  expect(named?.sort()).toEqual([
    'keep_alive',
    'logit_bias',
    'num_ctx',
    'odd__name',
    'options.num_ctx',
    'store',
  ])
  expect(ollama.generating()[0]?.body['options']).toEqual({ top_k: 3 })
  const plain = await proxy.call('/v1/chat/completions', { key, json: chat })
  expect(plain.headers.get('x-ignored-parameters')).toBeNull()
})

test('a stream is not to be cached, changed or buffered on its way', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.next(say('hi'))
  const { headers, body } = await proxy.call('/v1/chat/completions', { key, json: { ...chat, stream: true } })
  expect(headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
  expect(headers.get('cache-control')).toBe('no-cache, no-transform')
  expect(headers.get('x-accel-buffering')).toBe('no')
  expect(headers.get('content-encoding')).toBeNull()
  await body?.cancel()
})

describe('CORS', () => {
  const origin = 'https://app.example'
  const asked = [
    'authorization,content-type,openai-organization,openai-project,openai-beta,idempotency-key,x-request-id',
    ...[
      'lang',
      'package-version',
      'os',
      'arch',
      'runtime',
      'runtime-version',
      'retry-count',
      'timeout',
      'async',
      'helper-method',
    ].map(name => `x-stainless-${name}`),
  ].join(',')
  const preflight = (proxy: RunningProxy, from: string, path = '/v1/chat/completions', method = 'POST') =>
    proxy.call(path, {
      method: 'OPTIONS',
      headers: {
        origin: from,
        'access-control-request-method': method,
        'access-control-request-headers': asked,
      },
    })

  test('a preflight allows all that the SDK sends, without a key', async () => {
    const { proxy } = await startSession({ settings: { CORS_ORIGINS: origin } })
    for (const [path, method] of [
      ['/v1/chat/completions', 'POST'],
      ['/v1/models', 'GET'],
      ['/v1/models/hf.co%2Fa%2Fb:Q4', 'GET'],
      ['/v1/embeddings', 'POST'],
    ] as const) {
      const answer = await preflight(proxy, origin, path, method)
      expect(answer.status).toBe(204)
      expect(answer.headers.get('access-control-allow-origin')).toBe(origin)
      const allowed = (answer.headers.get('access-control-allow-headers') ?? '').toLowerCase().split(/, */)
      expect(allowed).toEqual(expect.arrayContaining(asked.split(',')))
      expect(answer.headers.get('access-control-allow-methods')).toContain(method)
      expect(answer.headers.get('access-control-allow-credentials')).toBeNull()
      expect(answer.headers.get('vary')?.toLowerCase()).toContain('origin')
    }
  })

  test('answers and errors expose the headers a client can use', async () => {
    const { ollama, proxy } = await startSession({ settings: { CORS_ORIGINS: origin } })
    const key = await proxy.createUser('alice', {
      requests_per_minute: 3,
      requests_per_day: null,
      tokens_per_minute: null,
      tokens_per_day: null,
      total_token_limit: null,
    })
    ollama.forModel('m', say('hi'))
    const headers = { origin }
    const statuses: number[] = []
    for (const init of [
      { key, headers, json: chat },
      { key, headers, json: { ...chat, stream: true } },
      { key, headers, json: { ...chat, model: 'nobody' } },
      { key, headers, json: chat },
      { headers, json: chat },
      { key, headers, json: {} },
      { key, headers },
    ]) {
      const answer = await proxy.call('/v1/chat/completions', init)
      statuses.push(answer.status)
      await answer.arrayBuffer()
      expect(answer.headers.get('access-control-allow-origin')).toBe(origin)
      const exposed = (answer.headers.get('access-control-expose-headers') ?? '').toLowerCase().split(/, */)
      expect(exposed).toEqual(
        expect.arrayContaining([
          'x-request-id',
          'retry-after',
          'retry-after-ms',
          'x-should-retry',
          'x-ratelimit-remaining-tokens',
          'x-ratelimit-reset-requests',
          'openai-processing-ms',
          'x-ignored-parameters',
        ]),
      )
    }
    expect(statuses).toEqual([200, 200, 404, 429, 401, 400, 405])
    const unknown = await proxy.call('/v1/nonsense', { headers })
    expect(unknown.headers.get('access-control-allow-origin')).toBe(origin)
  })

  test('another origin is given nothing', async () => {
    const { proxy } = await startSession({ settings: { CORS_ORIGINS: origin } })
    const refused = await preflight(proxy, 'https://evil.example')
    expect(refused.headers.get('access-control-allow-origin')).toBeNull()
    const answer = await proxy.call('/health', { headers: { origin: 'https://evil.example' } })
    expect(answer.headers.get('access-control-allow-origin')).toBeNull()
  })

  test('* is for everyone, never with credentials', async () => {
    const { proxy } = await startSession({ settings: { CORS_ORIGINS: '*' } })
    const answer = await preflight(proxy, 'https://any.example')
    expect(answer.headers.get('access-control-allow-origin')).toBe('*')
    expect(answer.headers.get('access-control-allow-credentials')).toBeNull()
  })

  test('switched off, nothing of it is there', async () => {
    const { proxy } = await startSession()
    const key = await proxy.createUser('alice')
    const answer = await proxy.call('/v1/models', { key, headers: { origin } })
    expect([...answer.headers.keys()].filter(name => name.startsWith('access-control'))).toEqual([])
    const asked = await preflight(proxy, origin)
    expect(asked.headers.get('access-control-allow-origin')).toBeNull()
  })
})

describe('OPTIONS, HEAD and wrong methods', () => {
  test('OPTIONS names the methods, without a key', async () => {
    const { proxy } = await startSession()
    for (const [path, allow] of [
      ['/v1/chat/completions', 'POST, OPTIONS'],
      ['/v1/models', 'GET, HEAD, OPTIONS'],
      ['/health', 'GET, HEAD, OPTIONS'],
    ] as const) {
      const answer = await proxy.call(path, { method: 'OPTIONS' })
      expect(answer.status).toBe(204)
      expect(answer.headers.get('allow')).toBe(allow)
      expect(await answer.text()).toBe('')
    }
  })

  test('HEAD is GET without its body', async () => {
    const { proxy } = await startSession()
    const key = await proxy.createUser('alice')
    for (const path of ['/', '/health', '/v1/models', '/v1/models/m']) {
      const answer = await proxy.call(path, { method: 'HEAD', key })
      expect(answer.status).toBe(200)
      expect(answer.headers.get('content-type')).toStartWith('application/json')
      expect(await answer.text()).toBe('')
    }
    expect((await proxy.call('/v1/models', { method: 'HEAD' })).status).toBe(401)
  })

  test('a wrong method is a 405 that says which are right', async () => {
    const { ollama, proxy } = await startSession()
    const key = await proxy.createUser('alice')
    const wrong: [method: string, path: string, allow: string][] = [
      ['GET', '/v1/chat/completions', 'POST, OPTIONS'],
      ['PUT', '/v1/chat/completions', 'POST, OPTIONS'],
      ['DELETE', '/v1/embeddings', 'POST, OPTIONS'],
      ['GET', '/v1/completions', 'POST, OPTIONS'],
      ['GET', '/v1/chat/completions/upload', 'POST, OPTIONS'],
      ['POST', '/v1/models', 'GET, HEAD, OPTIONS'],
      ['DELETE', '/v1/models/m', 'GET, HEAD, OPTIONS'],
      ['POST', '/health', 'GET, HEAD, OPTIONS'],
      ['POST', '/', 'GET, HEAD, OPTIONS'],
    ]
    for (const [method, path, allow] of wrong) {
      const answer = await proxy.call(path, { method, key })
      expect([method, path, answer.status, answer.headers.get('allow')]).toEqual([method, path, 405, allow])
      expect(errorBody.parse(await answer.json()).error).toMatchObject({
        type: 'invalid_request_error',
        code: 'method_not_allowed',
      })
    }
    expect(ollama.generating()).toHaveLength(0)
  })
})

test('an upstream that breaks keeps its headers to itself', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.next(reset())
  const answer = await proxy.call('/v1/chat/completions', { key, json: chat })
  expect(answer.status).toBe(502)
  expect(answer.headers.get('x-request-id')).toMatch(/^req_/)
  const text = await answer.text()
  expect(text).not.toContain(ollama.url)
  expect(text).not.toContain('127.0.0.1')
})
