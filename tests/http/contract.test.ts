/** The endpoints, one by one, and what holds for all of them: envelope, request id, keys, methods, bodies. */
import { expect, test } from 'bun:test'
import { ADMIN_KEY } from '../support/proxy.ts'
import { type Session, startSession } from './support.ts'

/** Path → the methods it has, with a body where a method takes one. */
const endpoints: Record<string, Record<string, unknown>> = {
  '/': { GET: undefined },
  '/health': { GET: undefined },
  '/v1/usage': { GET: undefined },
  '/v1/usage/summary': { GET: undefined },
  '/v1/usage/history': { GET: undefined },
  '/v1/limits': { GET: undefined },
  '/v1/pricing': { GET: undefined },
  '/v1/models': { GET: undefined },
  '/v1/models/m': { GET: undefined },
  '/admin/users': { POST: { user_id: 'bob' }, GET: undefined, DELETE: undefined },
  '/admin/users/alice': { GET: undefined, DELETE: undefined },
  '/admin/users/alice/keys': { POST: {}, GET: undefined },
  '/admin/users/alice/keys/key_1': { PATCH: {}, DELETE: undefined },
  '/admin/users/alice/usage': { GET: undefined },
  '/admin/users/alice/usage/history': { GET: undefined },
  '/admin/users/alice/limits': { GET: undefined, PUT: { tokens_per_day: 1 } },
  '/admin/usage': { GET: undefined },
  '/admin/usage/export': { GET: undefined },
  '/admin/pricing': {
    POST: { model: 'm', input_cost_per_million: 1, output_cost_per_million: 1 },
    GET: undefined,
  },
  '/admin/pricing/m': { GET: undefined, PUT: { input_cost_per_million: 1 }, DELETE: undefined },
  '/admin/pricing/history/all': { GET: undefined },
}
const rows = Object.entries(endpoints).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, json]) => ({ path, method, json })),
)
const needsAdmin = (path: string) => path.startsWith('/admin')
const needsClient = (path: string) => path.startsWith('/v1')
const asJson = (json: unknown) => (json === undefined ? {} : { json })

/** Everything an error of ours has, whatever its cause. */
const expectEnvelope = async (response: Response) => {
  expect(response.headers.get('x-request-id')).toMatch(/^req_[0-9a-z]{20}$/)
  expect(response.headers.get('content-type')).toStartWith('application/json')
  const body = (await response.json()) as { error: Record<string, unknown> }
  expect(Object.keys(body)).toEqual(['error'])
  expect(Object.keys(body.error).toSorted()).toEqual(['code', 'message', 'param', 'type'])
  expect(body.error['message']).toBeString()
  return body.error
}

/** A user with a key and a price, so that every path of the table leads to something. */
const startFilled = async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await session.proxy.admin('/admin/pricing', {
    json: { model: 'm', input_cost_per_million: 1, output_cost_per_million: 1 },
  })
  return { ...session, key }
}
const keyFor = (path: string, key: string) =>
  needsAdmin(path) ? { key: ADMIN_KEY } : needsClient(path) ? { key } : {}

test('every endpoint answers, in JSON unless it is an export, with a request id', async () => {
  for (const { path, method, json } of rows) {
    const { proxy, key } = await startFilled()
    const confirmed = method === 'DELETE' && path === '/admin/users' ? '?confirm=all' : ''
    const response = await proxy.call(path + confirmed, { method, ...asJson(json), ...keyFor(path, key) })
    expect([method, path, response.status]).toEqual([method, path, method === 'POST' ? 201 : 200])
    expect(response.headers.get('x-request-id')).toMatch(/^req_[0-9a-z]{20}$/)
    if (path !== '/admin/usage/export')
      expect(response.headers.get('content-type')).toStartWith('application/json')
  }
})

test('every endpoint but the public ones refuses a missing and a wrong key', async () => {
  const { proxy } = await startFilled()
  for (const { path, method, json } of rows) {
    if (!needsAdmin(path) && !needsClient(path)) continue
    const [missing, wrong] = needsAdmin(path)
      ? [
          [401, 'missing_admin_key'],
          [403, 'invalid_admin_key'],
        ]
      : [
          [401, null],
          [401, 'invalid_api_key'],
        ]
    const without = await proxy.call(path, { method, ...asJson(json) })
    expect([method, path, without.status, (await expectEnvelope(without))['code']]).toEqual([
      method,
      path,
      ...missing,
    ])
    const refused = await proxy.call(path, { method, ...asJson(json), key: 'sk-alice-wrong' })
    expect([method, path, refused.status, (await expectEnvelope(refused))['code']]).toEqual([
      method,
      path,
      ...wrong,
    ])
  }
  expect((await proxy.admin('/admin/users')).body.data).toHaveLength(1)
})

test('a method that a path does not have is a 405 whose Allow says which it has', async () => {
  const { proxy, key } = await startFilled()
  for (const [path, methods] of Object.entries(endpoints)) {
    for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'PROPFIND']) {
      if (method in methods) continue
      const response = await proxy.call(path, { method, ...keyFor(path, key) })
      expect([method, path, response.status]).toEqual([method, path, 405])
      const allowed = response.headers
        .get('allow')
        ?.split(', ')
        .filter(word => !['HEAD', 'OPTIONS'].includes(word))
      expect([path, allowed?.toSorted()]).toEqual([path, Object.keys(methods).toSorted()])
      expect((await expectEnvelope(response))['code']).toBe('method_not_allowed')
    }
  }
})

test('HEAD answers like GET, without the body', async () => {
  const { proxy, key } = await startFilled()
  for (const { path, method } of rows) {
    if (method !== 'GET') continue
    const response = await proxy.call(path, { method: 'HEAD', ...keyFor(path, key) })
    expect([path, response.status, await response.text()]).toEqual([path, 200, ''])
  }
})

test('a path that is none is a 404 unknown_url', async () => {
  const { proxy, key } = await startFilled()
  const paths = [
    '/nothing',
    '/v1',
    '/v1/nothing',
    '/v2/usage',
    '/usage',
    '/admin/nothing',
    '/admin/users/alice/nothing',
    '/admin/users/alice/keys/key_1/x',
  ]
  for (const path of paths) {
    const response = await proxy.call(path, keyFor(path, key))
    expect([path, response.status, (await expectEnvelope(response))['code']]).toEqual([
      path,
      404,
      'unknown_url',
    ])
  }
})

const withBody = rows.filter(({ json }) => json !== undefined)

const send = (
  { proxy }: Session,
  { path, method }: { path: string; method: string },
  body: string,
  headers: Record<string, string> = {},
) =>
  proxy.call(path, {
    method,
    key: ADMIN_KEY,
    body,
    headers: { 'content-type': 'application/json', ...headers },
  })

test('a body that is missing, not JSON, of the wrong kind, or too large is an error in the envelope', async () => {
  const session = await startFilled()
  for (const row of withBody) {
    for (const body of [
      '',
      '{',
      'user_id=bob',
      '{"a":1}}',
      '[]',
      '"text"',
      'null',
      '7',
      '\u0000',
      '['.repeat(100_000),
    ]) {
      const response = await send(session, row, body)
      expect([row.path, body.slice(0, 20), response.status]).toEqual([row.path, body.slice(0, 20), 400])
      expect((await expectEnvelope(response))['type']).toBe('invalid_request_error')
    }
    const large = await send(session, row, JSON.stringify({ name: 'x'.repeat(1024 * 1024) }))
    expect([large.status, (await expectEnvelope(large))['code']]).toEqual([413, 'request_too_large'])
    const form = await send(session, row, 'user_id=bob', {
      'content-type': 'application/x-www-form-urlencoded',
    })
    expect([form.status, (await expectEnvelope(form))['code']]).toEqual([415, 'unsupported_media_type'])
  }
})

test('an unknown field of a body is refused by name, and nothing happens', async () => {
  const session = await startFilled()
  for (const row of withBody) {
    const response = await send(session, row, JSON.stringify({ ...(row.json as object), surprise: null }))
    const error = await expectEnvelope(response)
    expect([row.path, response.status, error['param']]).toEqual([row.path, 400, 'surprise'])
  }
  expect((await session.proxy.admin('/admin/users/bob')).status).toBe(404)
  expect((await session.proxy.admin('/admin/pricing/history/all')).body.history).toHaveLength(1)
  expect((await session.proxy.admin('/admin/users/alice')).body.limits.tokens_per_day).toBeNull()
})

test("every answer has a request id of our own; a client's own is echoed beside it and never used", async () => {
  const { proxy, key } = await startFilled()
  const seen = new Set<string>()
  for (let times = 0; times < 3; times++) {
    const response = await proxy.call('/v1/usage', { key, headers: { 'x-request-id': 'mine' } })
    expect(response.headers.get('x-client-request-id')).toBe('mine')
    seen.add(response.headers.get('x-request-id') ?? '')
  }
  expect(seen.size).toBe(3)
  expect(seen).not.toContain('mine')
  const long = await proxy.call('/v1/usage', { key, headers: { 'x-request-id': 'x'.repeat(129) } })
  expect(long.headers.get('x-client-request-id')).toBeNull()
})

test('a fault of ours is a 500 internal_error that tells the client nothing but the request id of the log', async () => {
  const { proxy, key } = await startFilled()
  proxy.server.windows.view = () => {
    throw new Error('secret detail')
  }
  const response = await proxy.call('/v1/limits', { key })
  const error = await expectEnvelope(response)
  expect([response.status, error['type'], error['code']]).toEqual([500, 'server_error', 'internal_error'])
  expect(JSON.stringify(error)).not.toContain('secret detail')
  const line = proxy.log.find(entry => entry['requestId'] === response.headers.get('x-request-id'))
  expect(String(line?.['cause'])).toContain('secret detail')
})
