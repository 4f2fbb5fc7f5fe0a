import { expect, test } from 'bun:test'
import { ADMIN_KEY } from '../support/proxy.ts'
import { get, startSession } from './support.ts'

const DEFAULT_KEY = 'admin-secret-key'

test('a client key is taken with the scheme in any case', async () => {
  const { proxy } = await startSession()
  const key = await proxy.createUser('alice')
  for (const scheme of ['Bearer', 'bearer', 'BEARER']) {
    const answer = await proxy.call('/v1/usage', { headers: { authorization: `${scheme} ${key}` } })
    expect(answer.status).toBe(200)
    const admins = await proxy.call('/admin/users', { headers: { authorization: `${scheme} ${ADMIN_KEY}` } })
    expect(admins.status).toBe(200)
  }
})

test('a missing client key is a 401 without a code, an unknown one a 401 invalid_api_key', async () => {
  const { proxy } = await startSession()
  const key = await proxy.createUser('alice')
  const answers = async (authorization?: string) => {
    const answer = await proxy.call(
      '/v1/usage',
      authorization === undefined ? {} : { headers: { authorization } },
    )
    expect(answer.headers.get('www-authenticate')).toStartWith('Bearer')
    const { error } = (await answer.json()) as { error: { code: string | null; type: string } }
    return [answer.status, error.type, error.code]
  }
  const type = 'invalid_request_error'
  for (const authorization of [
    undefined,
    '',
    'Bearer',
    'Bearer ',
    key,
    `Basic ${btoa(`alice:${key}`)}`,
    `Token ${key}`,
  ]) {
    expect([authorization, ...(await answers(authorization))]).toEqual([authorization, 401, type, null])
  }
  for (const wrong of [
    'sk-alice-0',
    key.slice(0, -1),
    `${key}0`,
    key.replace('alice', 'bob'),
    key.toUpperCase(),
    ADMIN_KEY,
    'x'.repeat(9000),
  ]) {
    expect(await answers(`Bearer ${wrong}`)).toEqual([401, type, 'invalid_api_key'])
  }
})

test('a refused key is not repeated in the answer nor in the log', async () => {
  const session = await startSession()
  const secret = 'sk-alice-0123456789abcdefghijklmnopqrstuvwxyzABCDEFG'
  const { body } = await get(session, secret, '/v1/usage')
  expect(JSON.stringify([body, session.proxy.log])).not.toContain(secret.slice(9, -4))
})

test('a missing admin key is a 401, a wrong one a 403, and client keys are wrong ones', async () => {
  const { proxy } = await startSession()
  const key = await proxy.createUser('alice')
  const missing = await proxy.call('/admin/users')
  expect(missing.status).toBe(401)
  expect(missing.headers.get('www-authenticate')).toStartWith('Bearer')
  expect(await missing.json()).toMatchObject({ error: { code: 'missing_admin_key' } })
  for (const wrong of [key, DEFAULT_KEY, ADMIN_KEY.slice(0, -1), `${ADMIN_KEY}x`, ADMIN_KEY.toUpperCase()]) {
    const answer = await proxy.call('/admin/users', { key: wrong })
    expect([wrong, answer.status, await answer.json()]).toMatchObject([
      wrong,
      403,
      { error: { code: 'invalid_admin_key' } },
    ])
  }
})

test('the admin key is no client key', async () => {
  const session = await startSession()
  expect((await get(session, ADMIN_KEY, '/v1/models')).status).toBe(401)
})

test('the published default admin key is honoured from this machine only, without a trace of forwarding', async () => {
  const { proxy } = await startSession({ settings: { ADMIN_API_KEY: DEFAULT_KEY } })
  const ask = async (headers: Record<string, string>) => {
    const answer = await proxy.call('/admin/users', { key: DEFAULT_KEY, headers })
    return [
      answer.status,
      ((await answer.json()) as { error?: { code: string; message: string } }).error,
    ] as const
  }
  const local: Record<string, string>[] = [
    {},
    { host: 'localhost' },
    { host: '127.0.0.1:8000' },
    { host: '[::1]:8000' },
    { origin: 'http://localhost:3000' },
  ]
  for (const headers of local) expect([headers, (await ask(headers))[0]]).toEqual([headers, 200])
  const foreign: Record<string, string>[] = [
    { host: 'proxy.example.com' },
    { host: 'localhost.example.com' },
    { host: '10.0.0.1' },
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { forwarded: 'for=1.2.3.4' },
    { 'x-forwarded-for': '1.2.3.4' },
    { 'x-real-ip': '1.2.3.4' },
    { via: '1.1 proxy' },
    { 'cf-connecting-ip': '1.2.3.4' },
  ]
  for (const headers of foreign) {
    const [status, error] = await ask(headers)
    expect([headers, status, error?.code]).toEqual([headers, 403, 'default_admin_key'])
    expect(error?.message).toContain('ADMIN_API_KEY')
  }
})

test('an admin key of one’s own is honoured from anywhere', async () => {
  const { proxy } = await startSession()
  const headers = {
    host: 'proxy.example.com',
    'x-forwarded-for': '1.2.3.4',
    origin: 'https://console.example.com',
  }
  expect((await proxy.call('/admin/users', { key: ADMIN_KEY, headers })).status).toBe(200)
})
