import { expect, test } from 'bun:test'
import { reset, say } from '../../src/simulator/script.ts'
import { START_MS } from '../support/proxy.ts'
import { allPages, get, hello, spend, startSession } from './support.ts'

const iso = (ms: number) => new Date(ms).toISOString()

test("a client's usage has the five numbers, by model too, of itself only", async () => {
  const session = await startSession({ simulator: { models: ['m', 'other'] } })
  const key = await session.proxy.createUser('alice')
  const bob = await session.proxy.createUser('bob')
  await spend(session, bob)
  const nothing = { total_tokens: 0, prompt_tokens: 0, completion_tokens: 0, request_count: 0, total_cost: 0 }
  expect((await get(session, key, '/v1/usage')).body).toEqual({
    user_id: 'alice',
    ...nothing,
    by_model: {},
    unpriced: [],
  })
  await spend(session, key, { prompt: 10, completion: 5 })
  await spend(session, key, { prompt: 1, completion: 2, model: 'other' })
  expect((await get(session, key, '/v1/usage')).body).toEqual({
    user_id: 'alice',
    total_tokens: 18,
    prompt_tokens: 11,
    completion_tokens: 7,
    request_count: 2,
    total_cost: 0,
    by_model: {
      m: { total_tokens: 15, prompt_tokens: 10, completion_tokens: 5, request_count: 1, total_cost: 0 },
      other: { total_tokens: 3, prompt_tokens: 1, completion_tokens: 2, request_count: 1, total_cost: 0 },
    },
    unpriced: ['m', 'other'],
  })
})

test("a client's usage in a range is of that range", async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await spend(session, key)
  session.proxy.pass(5000)
  await spend(session, key)
  const counted = async (query: string) => (await get(session, key, `/v1/usage?${query}`)).body.request_count
  expect(await counted(`from=${iso(START_MS + 1)}`)).toBe(1)
  expect(await counted(`to=${iso(START_MS + 1)}`)).toBe(1)
  expect(await counted(`from=${iso(START_MS)}&to=${iso(START_MS + 5000)}`)).toBe(1)
  for (const [query, param] of [
    ['from=2026-11-02&to=2026-11-01', 'to'],
    ['from=soon', 'from'],
    ['since=2026', 'since'],
  ]) {
    const { status, body } = await get(session, key, `/v1/usage?${query}`)
    expect([query, status, body.error?.param]).toEqual([query, 400, param])
  }
})

test('the summary is the total, the cost and the models', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await session.proxy.admin('/admin/pricing', {
    json: { model: 'm', input_cost_per_million: 0.1, output_cost_per_million: 0.2 },
  })
  await spend(session, key, { prompt: 10, completion: 5 })
  const { body } = await get(session, key, '/v1/usage/summary')
  expect(body).toEqual({
    user_id: 'alice',
    total_tokens: 15,
    total_cost: 0.000002,
    by_model: {
      m: {
        total_tokens: 15,
        prompt_tokens: 10,
        completion_tokens: 5,
        request_count: 1,
        total_cost: 0.000002,
      },
    },
  })
})

test('a history row says what was asked, what it cost and on what basis', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  const answer = await session.proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'M:latest', messages: hello },
  })
  const { id, usage } = (await answer.json()) as {
    id: string
    usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number }
  }
  const { body } = await get(session, key, '/v1/usage/history')
  const { prompt_tokens, completion_tokens, total_tokens } = usage
  expect(body).toEqual({
    object: 'list',
    data: [
      {
        id,
        request_id: answer.headers.get('x-request-id'),
        model: 'm',
        prompt_tokens,
        completion_tokens,
        total_tokens,
        cost: 0,
        outcome: 'completed',
        basis: 'measured',
        started_at: iso(START_MS),
        ended_at: iso(START_MS),
        first_token_ms: 0,
        duration_ms: 0,
        api_key_id: 'key_1',
        prompt_preview: null,
      },
    ],
    has_more: false,
    last_id: id,
  })
})

test('a prompt preview is kept only where PROMPT_PREVIEW_CHARS says how much', async () => {
  const session = await startSession({ settings: { PROMPT_PREVIEW_CHARS: '4' } })
  const key = await session.proxy.createUser('alice')
  await spend(session, key)
  expect((await get(session, key, '/v1/usage/history')).body.data).toMatchObject([{ prompt_preview: 'Hell' }])
})

test('history is newest first, in pages that neither repeat nor skip a row while rows are being added', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  const ids: string[] = []
  for (let request = 0; request < 7; request++) ids.push((await spend(session, key)).id)
  const pages = await allPages(async query => {
    const page = await get(session, key, `/v1/usage/history?limit=3${query}`)
    await spend(session, key)
    return page
  })
  expect(pages.map(page => page.length)).toEqual([3, 3, 1])
  expect(pages.flat().map(row => (row as { id: string }).id)).toEqual(ids.toReversed())
})

test('history is filtered by model in any spelling and by outcome', async () => {
  const session = await startSession({ simulator: { models: ['m', 'other'] } })
  const key = await session.proxy.createUser('alice')
  const first = await spend(session, key)
  const second = await spend(session, key, { model: 'other' })
  session.ollama.next(say('x'), reset())
  await (
    await session.proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello } })
  ).text()
  const ids = async (query: string) =>
    (await get(session, key, `/v1/usage/history?${query}`)).body.data.map((row: { id: string }) => row.id)
  expect(await ids('model=Library/Other:latest')).toEqual([second.id])
  expect(await ids('outcome=completed')).toEqual([second.id, first.id])
  expect(await ids('outcome=failed&model=m')).toHaveLength(1)
  expect(await ids('outcome=failed&model=other')).toEqual([])
  expect(await ids('outcome=recovered')).toEqual([])
  for (const [query, param] of [
    ['limit=0', 'limit'],
    ['limit=1e1', 'limit'],
    ['after=1', 'after'],
    ['after=req_0000000000i3p48wfsw1', 'after'],
    ['outcome=ok', 'outcome'],
    ['key=1', 'key'],
  ]) {
    const { status, body } = await get(session, key, `/v1/usage/history?${query}`)
    expect([query, status, body.error?.param]).toEqual([query, 400, param])
  }
})

test("another user's rows are not in a history, also not by their cursor", async () => {
  const session = await startSession()
  const alice = await session.proxy.createUser('alice')
  const bob = await session.proxy.createUser('bob')
  const own = await spend(session, alice)
  const { id } = await spend(session, bob)
  const { body } = await get(session, alice, `/v1/usage/history?after=${id}`)
  expect(body.data.map((row: { id: string }) => row.id)).toEqual([own.id])
})

test('who has read the end of an answer can read its usage at once', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  for (let request = 1; request <= 5; request++) {
    await spend(session, key)
    expect((await get(session, key, '/v1/usage')).body.request_count).toBe(request)
    expect((await get(session, key, '/v1/usage/history')).body.data).toHaveLength(request)
  }
})

test('a client sees the prices', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  expect((await get(session, key, '/v1/pricing')).body).toEqual({ pricing: [] })
  const { body } = await session.proxy.admin('/admin/pricing', {
    json: { model: 'm', input_cost_per_million: 1, output_cost_per_million: 2 },
  })
  expect((await get(session, key, '/v1/pricing')).body).toEqual({ pricing: [body] })
})

test('asking about the account costs nothing, also for a user whose limits are all 0', async () => {
  const session = await startSession()
  const none = {
    requests_per_minute: 0,
    requests_per_day: 0,
    tokens_per_minute: 0,
    tokens_per_day: 0,
    total_token_limit: 0,
  }
  const key = await session.proxy.createUser('alice', none)
  for (const path of [
    '/v1/usage',
    '/v1/usage/summary',
    '/v1/usage/history',
    '/v1/limits',
    '/v1/pricing',
    '/v1/models',
    '/v1/models/m',
  ]) {
    expect([path, (await get(session, key, path)).status]).toEqual([path, 200])
  }
  const { body } = await get(session, key, '/v1/limits')
  expect(body).toMatchObject({
    user_id: 'alice',
    ...none,
    current: { requests_per_minute: { used: 0, reserved: 0, limit: 0 } },
  })
})
