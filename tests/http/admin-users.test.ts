import { Database } from 'bun:sqlite'
import { expect, test } from 'bun:test'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pause, say } from '../../src/simulator/script.ts'
import { ADMIN_KEY } from '../support/proxy.ts'
import { allPages, get, hello, notFoundBody, spend, startSession } from './support.ts'

const isoNow = '2026-11-23T08:00:00.000Z'

test('a new user gets the default limits, and its key is shown once', async () => {
  const { proxy } = await startSession({ settings: { DEFAULT_TOTAL_TOKEN_LIMIT: '7' } })
  const { status, body } = await proxy.admin('/admin/users', { json: { user_id: 'alice' } })
  expect(status).toBe(201)
  expect(body).toEqual({
    user_id: 'alice',
    api_key: expect.stringMatching(/^sk-alice-[0-9A-Za-z]{43,}$/),
    key: {
      id: 'key_1',
      prefix: `sk-alice-…${body.api_key.slice(-4)}`,
      name: null,
      created_at: isoNow,
      expires_at: null,
      last_used_at: null,
      models: null,
    },
    limits: {
      user_id: 'alice',
      requests_per_minute: 60,
      requests_per_day: 1000,
      tokens_per_minute: 100_000,
      tokens_per_day: 1_000_000,
      total_token_limit: 7,
    },
    created_at: isoNow,
  })
  const again = JSON.stringify([
    (await proxy.admin('/admin/users/alice')).body,
    (await proxy.admin('/admin/users/alice/keys')).body,
    proxy.log,
  ])
  expect(again).not.toContain(body.api_key)
})

test('limits given with a new user replace single defaults: null is unlimited, 0 is nothing', async () => {
  const { proxy } = await startSession()
  const limits = { requests_per_minute: null, tokens_per_day: 0 }
  const { body } = await proxy.admin('/admin/users', { json: { user_id: 'alice', limits } })
  expect(body.limits).toMatchObject({ requests_per_minute: null, requests_per_day: 1000, tokens_per_day: 0 })
  const refused = await proxy.call('/v1/chat/completions', {
    key: body.api_key,
    json: { model: 'm', messages: hello },
  })
  expect(refused.status).toBe(429)
})

test('a user id that is taken is a 409 and changes nothing', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  const { status, body } = await session.proxy.admin('/admin/users', { json: { user_id: 'alice' } })
  expect(status).toBe(409)
  expect(body.error).toMatchObject({ code: 'user_exists', param: 'user_id' })
  expect((await get(session, key, '/v1/limits')).body.requests_per_minute).toBeNull()
  expect((await session.proxy.admin('/admin/users/alice/keys')).body.data).toHaveLength(1)
})

test('user ids are 1 to 64 of A-Z a-z 0-9 . _ - beginning with a letter or digit, in bodies and in paths', async () => {
  const { proxy } = await startSession()
  for (const user_id of ['a', '0', 'A.b_c-d', 'x'.repeat(64)]) {
    expect((await proxy.admin('/admin/users', { json: { user_id } })).status).toBe(201)
    expect((await proxy.admin(`/admin/users/${user_id}`)).body.user_id).toBe(user_id)
  }
  for (const user_id of [
    '',
    '-a',
    '.a',
    'a b',
    'ä',
    'a/b',
    'a\n',
    'x'.repeat(65),
    7,
    null,
    ['a'],
    'deleted-3',
  ]) {
    const { status, body } = await proxy.admin('/admin/users', { json: { user_id } })
    expect(status).toBe(400)
    expect(body.error.param).toBe('user_id')
  }
  for (const path of ['-a', 'a%20b', '%C3%A4', 'a%2Fb', 'x'.repeat(65)]) {
    const { status, body } = await proxy.admin(`/admin/users/${path}`)
    expect(status).toBe(400)
    expect(body.error.param).toBe('user_id')
  }
})

test('user ids are compared exactly', async () => {
  const { proxy } = await startSession()
  await proxy.createUser('Alice')
  expect((await proxy.admin('/admin/users/alice')).status).toBe(404)
  expect((await proxy.admin('/admin/users', { json: { user_id: 'alice' } })).status).toBe(201)
})

test('unknown fields of a body are refused by name', async () => {
  const { proxy } = await startSession()
  const outer = await proxy.admin('/admin/users', { json: { user_id: 'alice', limit: {} } })
  expect(outer).toMatchObject({
    status: 400,
    body: { error: { param: 'limit', type: 'invalid_request_error' } },
  })
  const inner = await proxy.admin('/admin/users', { json: { user_id: 'alice', limits: { rpm: null } } })
  expect(inner).toMatchObject({ status: 400, body: { error: { param: 'limits.rpm' } } })
  expect((await proxy.admin('/admin/users')).body.data).toEqual([])
})

test('wrong limits of a new user are a 400 that names the field', async () => {
  const { proxy } = await startSession()
  for (const value of [-1, 1.5, '60', 2 ** 53, true, [], 'unlimited']) {
    const limits = { tokens_per_minute: value }
    const { status, body } = await proxy.admin('/admin/users', { json: { user_id: 'alice', limits } })
    expect(status).toBe(400)
    expect(body.error.param).toBe('limits.tokens_per_minute')
  }
})

test('a user shows its keys, limits and lifetime usage', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await session.proxy.admin('/admin/users/alice/keys', { json: {} })
  await session.proxy.admin('/admin/pricing', {
    json: { model: 'm', input_cost_per_million: 1, output_cost_per_million: 2 },
  })
  await spend(session, key, { prompt: 10, completion: 5 })
  const shown = {
    user_id: 'alice',
    created_at: isoNow,
    keys: 2,
    limits: {
      user_id: 'alice',
      requests_per_minute: null,
      requests_per_day: null,
      tokens_per_minute: null,
      tokens_per_day: null,
      total_token_limit: null,
    },
    usage: { total_tokens: 15, request_count: 1, total_cost: 0.00002 },
  }
  expect((await session.proxy.admin('/admin/users/alice')).body).toEqual(shown)
  const { body } = await session.proxy.admin('/admin/users')
  expect(body).toEqual({ object: 'list', data: [shown], users: [shown], has_more: false, last_id: 'alice' })
})

test('users are listed newest first, in pages that neither repeat nor skip one while users are being added', async () => {
  const { proxy } = await startSession()
  const names = Array.from({ length: 7 }, (_, index) => `user-${index}`)
  for (const name of names) await proxy.createUser(name)
  let added = 0
  const pages = await allPages(async query => {
    const page = await proxy.admin(`/admin/users?limit=3${query}`)
    await proxy.createUser(`late-${added++}`)
    return page
  })
  expect(pages.map(page => page.length)).toEqual([3, 3, 1])
  expect(pages.flat().map(user => (user as { user_id: string }).user_id)).toEqual(names.toReversed())
})

test('a page holds 20 users unless told otherwise, and an empty list has no last_id', async () => {
  const { proxy } = await startSession()
  expect((await proxy.admin('/admin/users')).body).toEqual({
    object: 'list',
    data: [],
    users: [],
    has_more: false,
    last_id: null,
  })
  for (let index = 0; index < 21; index++) await proxy.createUser(`u${index}`)
  const { body } = await proxy.admin('/admin/users')
  expect(body.data).toHaveLength(20)
  expect(body.has_more).toBe(true)
  const full = await proxy.admin('/admin/users?limit=21')
  expect(full.body.has_more).toBe(false)
})

test('q finds users whose id begins with it, with no character special', async () => {
  const { proxy } = await startSession()
  for (const name of ['ann', 'anna', 'Anna', 'a_n', 'bob']) await proxy.createUser(name)
  const found = async (q: string) =>
    (await proxy.admin(`/admin/users?q=${q}`)).body.data.map((user: { user_id: string }) => user.user_id)
  expect(await found('ann')).toEqual(['anna', 'ann'])
  expect(await found('a_')).toEqual(['a_n'])
  expect(await found('')).toHaveLength(5)
  expect(await found('zoe')).toEqual([])
})

test('list filters that make no sense are a 400 that names the parameter', async () => {
  const { proxy } = await startSession()
  const wrong = {
    limit: ['0', '101', '-1', '1.5', 'ten', '', '1&limit=2'],
    after: ['nobody', '', '%20'],
    q: ['%25', 'a%20b'],
    offset: ['3'],
  }
  for (const [param, values] of Object.entries(wrong)) {
    for (const value of values) {
      const { status, body } = await proxy.admin(`/admin/users?${param}=${value}`)
      expect([param, value, status, body.error?.param]).toEqual([param, value, 400, param])
    }
  }
})

test('a missing user is the same 404 on every path below it', async () => {
  const { proxy } = await startSession()
  const calls: [string, string, unknown?][] = [
    ['GET', ''],
    ['DELETE', ''],
    ['POST', '/keys', {}],
    ['GET', '/keys'],
    ['PATCH', '/keys/key_1', {}],
    ['DELETE', '/keys/key_1'],
    ['GET', '/usage'],
    ['GET', '/usage/history'],
    ['GET', '/limits'],
    ['PUT', '/limits', { tokens_per_day: 1 }],
  ]
  for (const [method, path, json] of calls) {
    const { status, body } = await proxy.admin(`/admin/users/bob${path}`, {
      method,
      ...(json === undefined ? {} : { json }),
    })
    expect([method, path, status, body]).toEqual([method, path, 404, notFoundBody])
  }
})

test('the keys of a deleted user stop at once', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  const other = await session.proxy.createUser('bob')
  expect((await get(session, key, '/v1/usage')).status).toBe(200)
  const { status, body } = await session.proxy.admin('/admin/users/alice', { method: 'DELETE' })
  expect([status, body]).toEqual([200, { id: 'alice', deleted: true }])
  const refused = await get(session, key, '/v1/usage')
  expect([refused.status, refused.body.error.code]).toEqual([401, 'invalid_api_key'])
  expect((await get(session, other, '/v1/usage')).status).toBe(200)
  expect((await session.proxy.admin('/admin/users/alice')).status).toBe(404)
})

test('access ends also when what is kept of a deleted user cannot be erased now', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'ai-usage-proxy-'))
  const path = join(folder, 'usage.db')
  const settings = { DATABASE_PATH: path, PROMPT_PREVIEW_CHARS: '20' }
  const session = await startSession({ settings })
  const { ollama, proxy } = session
  const key = await proxy.createUser('alice')
  await spend(session, key)
  const aside = new Database(path)
  aside.run(
    "create trigger stuck before delete on prompt_previews begin select raise(abort, 'no room to erase'); end",
  )
  ollama.next(say('one'), pause(), say('two'))
  const answer = await proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: hello, stream: true },
  })
  await ollama.reached()
  expect((await proxy.admin('/admin/users/alice', { method: 'DELETE' })).status).toBe(500)
  expect(await answer.text()).toContain('"code":"user_deleted"')
  expect((await get(session, key, '/v1/usage')).status).toBe(401)
  aside.run('drop trigger stuck')
  aside.close()
  await proxy.createUser('bob')
  await proxy.admin('/admin/users?confirm=all', { method: 'DELETE' })
  const left = new Database(path, { readonly: true })
  expect(left.query('select * from prompt_previews').values()).toEqual([])
  left.close()
  rmSync(folder, { recursive: true })
})

test('a stream of a deleted user ends with an error chunk user_deleted, its row is cancelled and billed', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.next(say('one'), say('two'), pause(), say('three'))
  const answer = await proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: hello, stream: true },
  })
  await ollama.reached()
  await proxy.admin('/admin/users/alice', { method: 'DELETE' })
  const text = await answer.text()
  expect(text).toContain('"code":"user_deleted"')
  expect(text).not.toContain('[DONE]')
  expect(text).not.toContain('three')
  const rows = await (await proxy.call('/admin/usage/export?format=ndjson', { key: ADMIN_KEY })).text()
  const row = JSON.parse(rows)
  expect(row).toMatchObject({ user_id: 'deleted-1', outcome: 'cancelled', basis: 'counted' })
  expect(row.completion_tokens).toBeGreaterThan(0)
})

test('streams of other users go on when one is deleted', async () => {
  const { ollama, proxy } = await startSession()
  await proxy.createUser('alice')
  const key = await proxy.createUser('bob')
  ollama.next(say('one'), pause(), say('two'))
  const answer = await proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: hello, stream: true },
  })
  await ollama.reached()
  await proxy.admin('/admin/users/alice', { method: 'DELETE' })
  ollama.resume()
  expect(await answer.text()).toEndWith('data: [DONE]\n\n')
})

test('the rows of a deleted user stay under deleted-<n> without the old name, and totals do not change', async () => {
  const session = await startSession({ settings: { PROMPT_PREVIEW_CHARS: '100' } })
  const { proxy } = session
  const key = await proxy.createUser('alice')
  await spend(session, key, { prompt: 10, completion: 5 })
  const before = (await proxy.admin('/admin/usage?group_by=model')).body
  await proxy.admin('/admin/users/alice', { method: 'DELETE' })
  expect((await proxy.admin('/admin/usage?group_by=model')).body).toEqual(before)
  const byUser = (await proxy.admin('/admin/usage?group_by=user_id')).body.data.at(-1).results
  expect(byUser).toMatchObject([{ user_id: 'deleted-1', total_tokens: 15 }])
  const rows = await (await proxy.call('/admin/usage/export', { key: ADMIN_KEY })).text()
  expect(rows).not.toContain('alice')
  expect(rows).not.toContain('Hello')
  const own = await proxy.call('/admin/usage/export?format=ndjson&user_id=deleted-1', { key: ADMIN_KEY })
  expect(JSON.parse(await own.text())).toMatchObject({
    user_id: 'deleted-1',
    total_tokens: 15,
    prompt_preview: null,
  })
})

test('a user id that was deleted and is created again starts from zero', async () => {
  const session = await startSession()
  const { proxy } = session
  const limits = {
    requests_per_minute: null,
    requests_per_day: null,
    tokens_per_minute: null,
    tokens_per_day: null,
    total_token_limit: 100,
  }
  const old = await proxy.createUser('alice', limits)
  await spend(session, old, { prompt: 60, completion: 40 })
  await proxy.admin('/admin/users/alice', { method: 'DELETE' })
  const key = await proxy.createUser('alice', limits)
  expect((await get(session, old, '/v1/usage')).status).toBe(401)
  expect((await get(session, key, '/v1/usage')).body).toMatchObject({
    total_tokens: 0,
    request_count: 0,
    by_model: {},
  })
  expect((await get(session, key, '/v1/usage/history')).body.data).toEqual([])
  expect((await get(session, key, '/v1/limits')).body.current.total_token_limit.used).toBe(0)
  await spend(session, key, { prompt: 10, completion: 5 })
})

test('nothing of a deleted user stays in the windows', async () => {
  const session = await startSession()
  const { windows } = session.proxy.server
  await spend(session, await session.proxy.createUser('alice'))
  await spend(session, await session.proxy.createUser('bob'))
  await spend(session, await session.proxy.createUser('carol'))
  expect([1, 2, 3].map(number => windows.needsTotal(number))).toEqual([false, false, false])
  await session.proxy.admin('/admin/users/bob', { method: 'DELETE' })
  expect([1, 2, 3].map(number => windows.needsTotal(number))).toEqual([false, true, false])
  await session.proxy.admin('/admin/users?confirm=all', { method: 'DELETE' })
  expect([1, 2, 3].map(number => windows.needsTotal(number))).toEqual([true, true, true])
})

test('all users are deleted only with confirm=all', async () => {
  const session = await startSession()
  const { proxy } = session
  const keys = [await proxy.createUser('alice'), await proxy.createUser('bob')]
  for (const query of ['', '?confirm=', '?confirm=yes', '?confirm=all&confirm=all', '/']) {
    const { status, body } = await proxy.admin(`/admin/users${query}`, { method: 'DELETE' })
    expect([status, body.error.param]).toEqual([400, 'confirm'])
  }
  const { status, body } = await proxy.admin('/admin/users?confirm=all', { method: 'DELETE' })
  expect([status, body]).toEqual([200, { deleted: 2 }])
  for (const key of keys) expect((await get(session, key, '/v1/usage')).status).toBe(401)
  expect((await proxy.admin('/admin/users')).body.data).toEqual([])
  expect((await proxy.admin('/admin/users?confirm=all', { method: 'DELETE' })).body).toEqual({ deleted: 0 })
})
