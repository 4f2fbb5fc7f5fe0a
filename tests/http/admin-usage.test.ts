import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { START_MS } from '../support/proxy.ts'
import { get, type Session, spend, startSession } from './support.ts'

const MINUTE = 60_000
const HOUR = 3_600_000
const DAY = 24 * HOUR
const iso = (ms: number) => new Date(ms).toISOString()
const usage = async ({ proxy }: Session, query = '') => proxy.admin(`/admin/usage${query}`)

type Bucket = { start_time: string; end_time: string; results: Record<string, number | string>[] }
const sumOf = (buckets: Bucket[], name: string) =>
  buckets.flatMap(bucket => bucket.results).reduce((sum, result) => sum + Number(result[name]), 0)

test("a user's usage has the five numbers, the same by model, and the models without a price", async () => {
  const session = await startSession({ simulator: { models: ['m', 'free'] } })
  const key = await session.proxy.createUser('alice')
  await session.proxy.admin('/admin/pricing', {
    json: { model: 'm', input_cost_per_million: 1, output_cost_per_million: 2 },
  })
  await spend(session, key, { prompt: 10, completion: 5 })
  await spend(session, key, { prompt: 1, completion: 2, model: 'FREE:latest' })
  const { body } = await session.proxy.admin('/admin/users/alice/usage')
  const m = {
    total_tokens: 15,
    prompt_tokens: 10,
    completion_tokens: 5,
    request_count: 1,
    total_cost: 0.00002,
  }
  const free = { total_tokens: 3, prompt_tokens: 1, completion_tokens: 2, request_count: 1, total_cost: 0 }
  const all = {
    total_tokens: 18,
    prompt_tokens: 11,
    completion_tokens: 7,
    request_count: 2,
    total_cost: 0.00002,
  }
  expect(body).toEqual({
    user_id: 'alice',
    usage: { ...all, by_model: { m, free }, unpriced: ['free'] },
    rate_limits: {
      user_id: 'alice',
      requests_per_minute: null,
      requests_per_day: null,
      tokens_per_minute: null,
      tokens_per_day: null,
      total_token_limit: null,
    },
  })
})

test('a range of time is half-open, by the instant a request began', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await spend(session, key)
  session.proxy.pass(1)
  await spend(session, key)
  const counted = async (query: string) =>
    (await session.proxy.admin(`/admin/users/alice/usage?${query}`)).body.usage.request_count
  expect(await counted(`from=${iso(START_MS)}`)).toBe(2)
  expect(await counted(`from=${iso(START_MS + 1)}`)).toBe(1)
  expect(await counted(`to=${iso(START_MS + 1)}`)).toBe(1)
  expect(await counted(`to=${iso(START_MS)}`)).toBe(0)
  expect(await counted(`from=${iso(START_MS)}&to=${iso(START_MS + 2)}`)).toBe(2)
  expect(await counted('from=2026-11-23T10:00:00%2B02:00&to=9999-12-31')).toBe(2)
  expect(await counted('from=0001-01-01&to=2026-11-24')).toBe(2)
})

test('a range, bucket, grouping, cursor or filter that makes no sense is a 400 that names the parameter', async () => {
  const { proxy } = await startSession()
  await proxy.createUser('alice')
  const wrongRanges = [
    'from=yesterday',
    'from=',
    'from=1795420800',
    'from=2026-13-01',
    'from=2026-02-30',
    'from=2026-11-23T25:00:00Z',
    'to=now',
    'to=2026-11-01&from=2026-11-02',
    'to=2026-11-01&from=2026-11-01',
    'to=2026-11-01&to=2026-11-02',
    'form=2026-11-01',
  ]
  const calls = [
    ...['/admin/usage', '/admin/usage/export', '/admin/users/alice/usage'].flatMap(path =>
      wrongRanges.map(query => `${path}?${query}`),
    ),
    '/admin/usage?bucket_width=2d',
    '/admin/usage?bucket_width=',
    '/admin/usage?group_by=user',
    '/admin/usage?group_by=user_id,,model',
    '/admin/usage?group_by=',
    '/admin/usage?group_by[]=colour',
    '/admin/usage?page=x',
    '/admin/usage?page=-1',
    '/admin/usage?page=1795420800001&from=2026-11-01',
    '/admin/usage?page=0&from=2026-11-01',
    '/admin/usage?from=2030-01-01',
    '/admin/usage/export?format=xml',
    '/admin/usage/export?user_id=nobody',
    '/admin/usage/export?user_id=',
    '/admin/usage/export?user_id=deleted-1',
    '/admin/usage/export?model=',
    '/admin/users/alice/usage/history?limit=101',
    '/admin/users/alice/usage/history?after=chatcmpl-x',
    '/admin/users/alice/usage/history?outcome=fine',
    '/admin/users/alice/usage/history?model=',
    '/admin/users/alice/usage/history?user_id=bob',
  ]
  for (const call of calls) {
    const { status, body } = await proxy.admin(call)
    const param = call
      .replace(/^.*?\?/, '')
      .split('=')[0]
      ?.replace('[]', '')
    expect([call, status, body.error?.param?.replace('[]', '')]).toEqual([call, 400, param])
    expect(body.error.type).toBe('invalid_request_error')
  }
})

test('buckets of usage are aligned to UTC, cut at the ends of the range, and empty ones are included', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await spend(session, key, { prompt: 10, completion: 5 })
  session.proxy.pass(2 * HOUR)
  await spend(session, key, { prompt: 1, completion: 2 })
  const from = iso(START_MS - 30 * MINUTE)
  const { status, body } = await usage(
    session,
    `?from=${from}&to=${iso(START_MS + 2 * HOUR + 1)}&bucket_width=1h`,
  )
  expect(status).toBe(200)
  expect(body).toMatchObject({ object: 'page', has_more: false, next_page: null })
  const five = (prompt: number, completion: number) => ({
    total_tokens: prompt + completion,
    prompt_tokens: prompt,
    completion_tokens: completion,
    request_count: 1,
    total_cost: 0,
    gpu_seconds: expect.any(Number),
  })
  expect(body.data).toEqual([
    { start_time: from, end_time: iso(START_MS), results: [] },
    { start_time: iso(START_MS), end_time: iso(START_MS + HOUR), results: [five(10, 5)] },
    { start_time: iso(START_MS + HOUR), end_time: iso(START_MS + 2 * HOUR), results: [] },
    { start_time: iso(START_MS + 2 * HOUR), end_time: iso(START_MS + 2 * HOUR + 1), results: [five(1, 2)] },
  ])
})

test('usage is grouped by user, model and key, asked for as a list or as a repeated parameter', async () => {
  const session = await startSession({ simulator: { models: ['m', 'other'] } })
  const alice = await session.proxy.createUser('alice')
  const bob = await session.proxy.createUser('bob')
  await spend(session, alice, { prompt: 1, completion: 1 })
  await spend(session, alice, { prompt: 2, completion: 2, model: 'other' })
  await spend(session, bob, { prompt: 3, completion: 3 })
  const results = async (query: string) => (await usage(session, `?${query}`)).body.data.at(-1).results
  const expected = [
    { user_id: 'alice', model: 'm', total_tokens: 2 },
    { user_id: 'alice', model: 'other', total_tokens: 4 },
    { user_id: 'bob', model: 'm', total_tokens: 6 },
  ]
  expect(await results('group_by=user_id,model')).toMatchObject(expected)
  expect(await results('group_by=user_id&group_by=model')).toMatchObject(expected)
  expect(await results('group_by[]=user_id&group_by[]=model')).toMatchObject(expected)
  expect(await results('group_by%5B%5D=user_id&group_by=model,model')).toMatchObject(expected)
  const byKey = await results('group_by=api_key_id')
  expect(byKey).toMatchObject([
    { api_key_id: 'key_1', total_tokens: 6 },
    { api_key_id: 'key_2', total_tokens: 6 },
  ])
  expect(byKey[0]).not.toHaveProperty('user_id')
})

test('a page of buckets holds 1440 minutes, 168 hours or 31 days; next_page goes on, and nothing is counted twice', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  for (let request = 0; request < 5; request++) {
    await spend(session, key)
    session.proxy.pass(11 * HOUR + 13 * MINUTE)
  }
  const limits = { '1m': [1440, 2 * DAY], '1h': [168, 10 * DAY], '1d': [31, 70 * DAY] } as const
  for (const [width, [most, span]] of Object.entries(limits)) {
    const range = `?from=${iso(START_MS - 7 * MINUTE)}&to=${iso(START_MS + span)}&bucket_width=${width}`
    const buckets: Bucket[] = []
    let page = ''
    for (;;) {
      const { body } = await usage(session, range + page)
      expect(body.data.length).toBeLessThanOrEqual(most)
      buckets.push(...body.data)
      if (!body.has_more) break
      expect(body.data).toHaveLength(most)
      page = `&page=${body.next_page}`
    }
    expect(buckets.length).toBeGreaterThan(most)
    expect(sumOf(buckets, 'request_count')).toBe(5)
    for (const [index, bucket] of buckets.entries()) {
      if (index > 0) expect(bucket.start_time).toBe(buckets[index - 1]?.end_time ?? '')
    }
  }
})

test('usage without a range is the last page of buckets, the present one included', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await spend(session, key)
  for (const [width, most] of [
    ['1m', 1440],
    ['1h', 168],
    ['1d', 31],
  ] as const) {
    const { body } = await usage(session, `?bucket_width=${width}`)
    expect(body.has_more).toBe(false)
    expect(body.data).toHaveLength(most)
    expect(body.data.at(-1).results).toMatchObject([{ request_count: 1 }])
  }
  expect((await usage(session)).body.data).toHaveLength(31)
})

test("the admin sees the same rows of a user's history as the user", async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  for (let request = 0; request < 3; request++) await spend(session, key)
  for (const query of ['', '?limit=2', '?model=M:latest&outcome=completed']) {
    const own = await get(session, key, `/v1/usage/history${query}`)
    const admins = await session.proxy.admin(`/admin/users/alice/usage/history${query}`)
    expect(own.body.data.length).toBeGreaterThan(0)
    expect(admins.body).toEqual(own.body)
  }
})

test('whatever is asked, the buckets of any range add up to the rows inside it', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  const rows: { at: number; tokens: number }[] = []
  for (let request = 0; request < 12; request++) {
    rows.push({ at: START_MS + Math.round(session.proxy.clock.steady() - START_MS), tokens: 11 + request })
    await spend(session, key, { prompt: 10, completion: 1 + request })
    session.proxy.pass((7 * HOUR + 19 * MINUTE + 123) * (1 + (request % 3)))
  }
  const span = session.proxy.clock.steady() - START_MS
  const instant = fc.oneof(
    fc.integer({ min: -DAY, max: span + DAY }),
    fc.constantFrom(...rows.map(row => row.at - START_MS)),
  )
  await fc.assert(
    fc.asyncProperty(
      instant,
      instant,
      fc.constantFrom('1h', '1d'),
      fc.subarray(['user_id', 'model', 'api_key_id']),
      async (a, b, width, groups) => {
        fc.pre(a !== b)
        const [from, to] = [START_MS + Math.min(a, b), START_MS + Math.max(a, b)]
        const grouped = groups.length === 0 ? '' : `&group_by=${groups.join(',')}`
        const buckets: Bucket[] = []
        let page = ''
        for (;;) {
          const { body } = await usage(
            session,
            `?from=${iso(from)}&to=${iso(to)}&bucket_width=${width}${grouped}${page}`,
          )
          buckets.push(...body.data)
          if (!body.has_more) break
          page = `&page=${body.next_page}`
        }
        const inside = rows.filter(row => row.at >= from && row.at < to)
        expect(sumOf(buckets, 'total_tokens')).toBe(inside.reduce((sum, row) => sum + row.tokens, 0))
        expect(sumOf(buckets, 'request_count')).toBe(inside.length)
      },
    ),
    { numRuns: 40 },
  )
})
