import { expect, test } from 'bun:test'
import { pause, say } from '../../src/simulator/script.ts'
import { START_MS } from '../support/proxy.ts'
import { allPages, get, hello, notFoundBody, type Session, spend, startSession } from './support.ts'

const HOUR = 3_600_000
const iso = (ms: number) => new Date(ms).toISOString()
const createKey = async ({ proxy }: Session, json: unknown, user = 'alice') =>
  proxy.admin(`/admin/users/${user}/keys`, { json })

test('a user may have several keys, each shown in plain once', async () => {
  const session = await startSession()
  const first = await session.proxy.createUser('alice')
  const { status, body } = await createKey(session, { name: 'laptop' })
  expect(status).toBe(201)
  expect(body).toEqual({
    api_key: expect.stringMatching(/^sk-alice-[0-9A-Za-z]{43,}$/),
    key: {
      id: 'key_2',
      prefix: `sk-alice-…${body.api_key.slice(-4)}`,
      name: 'laptop',
      created_at: iso(START_MS),
      expires_at: null,
      last_used_at: null,
      models: null,
    },
  })
  for (const key of [first, body.api_key]) expect((await get(session, key, '/v1/usage')).status).toBe(200)
  const listed = JSON.stringify((await session.proxy.admin('/admin/users/alice/keys')).body)
  expect(listed).not.toContain(body.api_key)
  expect(listed).not.toContain(first)
})

test('a key stops working at the instant it expires', async () => {
  const session = await startSession()
  await session.proxy.createUser('alice')
  const { body } = await createKey(session, { expires_at: iso(START_MS + HOUR) })
  expect(body.key.expires_at).toBe(iso(START_MS + HOUR))
  session.proxy.pass(HOUR - 1)
  expect((await get(session, body.api_key, '/v1/usage')).status).toBe(200)
  session.proxy.pass(1)
  const refused = await get(session, body.api_key, '/v1/usage')
  expect([refused.status, refused.body.error.code]).toEqual([401, 'invalid_api_key'])
})

test('an expiry that is no time or has passed is a 400', async () => {
  const session = await startSession()
  await session.proxy.createUser('alice')
  const wrong = ['tomorrow', '', '2026-02-30T00:00:00Z', START_MS + HOUR, iso(START_MS), iso(START_MS - 1)]
  for (const expires_at of wrong) {
    const { status, body } = await createKey(session, { expires_at })
    expect([expires_at, status, body.error?.param]).toEqual([expires_at, 400, 'expires_at'])
  }
})

test('a key with a list of models may use those only, in any spelling', async () => {
  const session = await startSession({ simulator: { models: ['m', 'other'] } })
  await session.proxy.createUser('alice')
  const { body } = await createKey(session, {
    models: ['registry.ollama.ai/library/M:latest', 'm', 'hf.co/Org/N:Q4'],
  })
  expect(body.key.models).toEqual(['m', 'hf.co/org/n:q4'])
  await spend(session, body.api_key, { model: 'library/m' })
  const refused = await session.proxy.call('/v1/chat/completions', {
    key: body.api_key,
    json: { model: 'OTHER:latest', messages: hello },
  })
  expect(refused.status).toBe(403)
  expect(await refused.json()).toMatchObject({ error: { code: 'model_not_allowed' } })
  const models = (await get(session, body.api_key, '/v1/models')).body.data
  expect(models.map((model: { id: string }) => model.id)).toEqual(['m'])
})

test('wrong key fields are a 400 that names the field', async () => {
  const session = await startSession()
  await session.proxy.createUser('alice')
  const wrong: [unknown, string][] = [
    [{ models: [] }, 'models'],
    [{ models: 'm' }, 'models'],
    [{ models: ['m', 7] }, 'models[1]'],
    [{ models: [':latest'] }, 'models[0]'],
    [{ models: [''] }, 'models[0]'],
    [{ name: 7 }, 'name'],
    [{ name: '' }, 'name'],
    [{ name: 'x'.repeat(201) }, 'name'],
    [{ expiry: null }, 'expiry'],
    [{ id: 'key_1' }, 'id'],
  ]
  for (const [json, param] of wrong) {
    for (const [path, method] of [
      ['/admin/users/alice/keys', 'POST'],
      ['/admin/users/alice/keys/key_1', 'PATCH'],
    ] as const) {
      const { status, body } = await session.proxy.admin(path, { method, json })
      expect([json, status, body.error?.param]).toEqual([json, 400, param])
    }
  }
})

test('keys are listed newest first, in stable pages, without revoked ones', async () => {
  const session = await startSession()
  await session.proxy.createUser('alice')
  for (let index = 2; index <= 6; index++) await createKey(session, { name: `k${index}` })
  await session.proxy.admin('/admin/users/alice/keys/key_4', { method: 'DELETE' })
  const pages = await allPages(async query => {
    const page = await session.proxy.admin(`/admin/users/alice/keys?limit=2${query}`)
    await createKey(session, {})
    return page
  })
  expect(pages.map(page => page.map(key => (key as { id: string }).id))).toEqual([
    ['key_6', 'key_5'],
    ['key_3', 'key_2'],
    ['key_1'],
  ])
  for (const query of ['limit=0', 'after=3', 'after=key_', 'q=x']) {
    const { status, body } = await session.proxy.admin(`/admin/users/alice/keys?${query}`)
    expect([status, body.error.param]).toEqual([400, query.split('=')[0]])
  }
})

test('a change of a key touches what it names, null clears, and it holds from the next request on', async () => {
  const session = await startSession({ simulator: { models: ['m', 'other'] } })
  await session.proxy.createUser('alice')
  const expires_at = iso(START_MS + HOUR)
  const { body } = await createKey(session, { name: 'laptop', expires_at, models: ['other'] })
  const change = async (json: unknown) =>
    (await session.proxy.admin('/admin/users/alice/keys/key_2', { method: 'PATCH', json })).body
  const ask = async () =>
    (
      await session.proxy.call('/v1/chat/completions', {
        key: body.api_key,
        json: { model: 'm', messages: hello },
      })
    ).status

  expect(await ask()).toBe(403)
  expect(await change({ models: ['m'] })).toMatchObject({ name: 'laptop', expires_at, models: ['m'] })
  expect(await ask()).toBe(200)
  expect(await change({ name: null, models: null })).toMatchObject({ name: null, expires_at, models: null })
  expect(await change({})).toMatchObject({ id: 'key_2', name: null, expires_at, models: null })
  expect(await change({ expires_at: null })).toMatchObject({ expires_at: null })
  session.proxy.pass(2 * HOUR)
  expect(await ask()).toBe(200)
})

test('a revoked key is refused from the next request on, its stream in flight goes on, other keys work', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  const first = await proxy.createUser('alice')
  const { body } = await createKey(session, {})
  ollama.next(say('one'), pause(), say('two'))
  const answer = await proxy.call('/v1/chat/completions', {
    key: body.api_key,
    json: { model: 'm', messages: hello, stream: true },
  })
  await ollama.reached()
  const revoked = await proxy.admin('/admin/users/alice/keys/key_2', { method: 'DELETE' })
  expect([revoked.status, revoked.body]).toEqual([200, { id: 'key_2', deleted: true }])
  const refused = await get(session, body.api_key, '/v1/usage')
  expect([refused.status, refused.body.error.code]).toEqual([401, 'invalid_api_key'])
  expect((await get(session, first, '/v1/usage')).status).toBe(200)
  ollama.resume()
  const text = await answer.text()
  expect(text).toContain('two')
  expect(text).toEndWith('data: [DONE]\n\n')
  expect((await get(session, first, '/v1/usage/history')).body.data).toMatchObject([
    { outcome: 'completed', api_key_id: 'key_2' },
  ])
})

test("another user's key, a revoked one and one that never was are the same 404", async () => {
  const session = await startSession()
  await session.proxy.createUser('alice')
  const bobs = await session.proxy.createUser('bob')
  await createKey(session, {})
  await session.proxy.admin('/admin/users/alice/keys/key_3', { method: 'DELETE' })
  for (const id of ['key_2', 'key_3', 'key_99', '1', 'key_0', 'key_1e3', 'nonsense']) {
    for (const init of [{ method: 'DELETE' }, { method: 'PATCH', json: { name: 'x' } }]) {
      const { status, body } = await session.proxy.admin(`/admin/users/alice/keys/${id}`, init)
      expect([id, status, body]).toEqual([id, 404, notFoundBody])
    }
  }
  expect((await get(session, bobs, '/v1/usage')).status).toBe(200)
})
