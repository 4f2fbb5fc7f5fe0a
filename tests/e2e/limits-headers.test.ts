import { expect, test } from 'bun:test'
import { done, pause, say, status } from '../../src/simulator/script.ts'
import { allOver, type Sent, send } from '../support/crowd.ts'
import { hello, limitsOf, startSession } from '../support/session.ts'

type Session = Awaited<ReturnType<typeof startSession>>

const words = (count: number) => Array.from({ length: count }, (_, index) => say(`w${index} `))
const chat = { model: 'm', messages: hello }
const streamed = { ...chat, stream: true }
/** What the simulated model counts for `hello`. */
const PROMPT = 4
const MINUTE_MS = 60_000
const DAY_MS = 86_400_000

const errorOf = ({ body }: Sent) =>
  (JSON.parse(body) as { error: { message: string; type: string; code: string; param: null } }).error
const retryMs = (one: Sent) => Number(one.headers.get('retry-after-ms'))
const limitHeaders = ({ headers }: { headers: Headers }) =>
  Object.fromEntries([...headers].filter(([name]) => name.startsWith('x-ratelimit-')))

const asker =
  ({ proxy }: Session, key: string) =>
  async (json: unknown, path?: string) => {
    const one = send(proxy.url, { key, json, ...(path !== undefined && { path }) })
    await one.over
    return one
  }

type State = { used: number; reserved: number; limit: number | null; resets_at: string | null }
const standing = async ({ proxy }: Session, key: string) => {
  const own = (await (await proxy.call('/v1/limits', { key })).json()) as { current: Record<string, State> }
  const { body } = await proxy.admin('/admin/users/alice/limits')
  expect(body).toEqual(own)
  return own.current
}

/** Needs more than three answers have left of 400 tokens, less than the first of them gives back. */
const probe = { model: 'm', messages: [{ role: 'user', content: 'word '.repeat(60) }], max_tokens: 1 }

/** Each: limits, and what fills them: so many answers of so many words, a pause after each. */
const windows = {
  requests_per_minute: { limit: 3, answers: 3, answerWords: 5, pauseMs: 7001, windowMs: MINUTE_MS },
  requests_per_day: { limit: 3, answers: 3, answerWords: 5, pauseMs: 3_600_007, windowMs: DAY_MS },
  tokens_per_minute: { limit: 400, answers: 3, answerWords: 110, pauseMs: 7001, windowMs: MINUTE_MS },
  tokens_per_day: { limit: 400, answers: 3, answerWords: 110, pauseMs: 3_600_007, windowMs: DAY_MS },
}
for (const [name, { limit, answers, answerWords, pauseMs, windowMs }] of Object.entries(windows)) {
  test(`retry-after of ${name} is exact: admitted at that instant, refused a millisecond before`, async () => {
    const session = await startSession()
    const { ollama, proxy } = session
    const key = await proxy.createUser('alice', limitsOf({ [name]: limit }))
    const ask = asker(session, key)
    ollama.otherwise(...words(answerWords), done())
    for (let count = 0; count < answers; count++) {
      expect((await ask({ ...chat, max_tokens: answerWords + 1 })).status).toBe(200)
      proxy.pass(pauseMs)
    }
    const refused = await ask(probe)
    expect(refused.status).toBe(429)
    const waitMs = retryMs(refused)
    // The oldest answer leaves first, a coarse cell at most 1 % of the window late.
    const leaves = windowMs - answers * pauseMs
    expect(waitMs).toBeGreaterThanOrEqual(leaves)
    expect(waitMs).toBeLessThanOrEqual(leaves + (name === 'requests_per_minute' ? 0 : windowMs / 100))
    expect(refused.headers.get('retry-after')).toBe(String(Math.ceil(waitMs / 1000)))
    expect(refused.headers.get('x-should-retry')).toBe(windowMs === DAY_MS ? 'false' : null)
    const error = errorOf(refused)
    expect(error).toMatchObject({ code: 'rate_limit_exceeded', type: name.split('_')[0], param: null })
    expect(error.message).toContain(
      `Limit of ${limit} ${name.split('_')[0]} ${name.includes('day') ? 'per day' : 'per minute'}`,
    )
    expect(error.message).toMatch(/used \d+, this request needs \d+\. Please try again in \S+\.$/)
    proxy.pass(waitMs - 1)
    const still = await ask(probe)
    expect(still.status).toBe(429)
    expect(retryMs(still)).toBe(1)
    expect(still.headers.get('retry-after')).toBe('1')
    proxy.pass(1)
    expect((await ask(probe)).status).toBe(200)
  })
}

test('a filled total is insufficient_quota without retry-after, and only settled use fills it', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  const key = await proxy.createUser('alice', limitsOf({ total_token_limit: 300 }))
  const ask = asker(session, key)
  // In flight it has delivered nearly all; Ollama may still correct that, so nothing is filled yet.
  ollama.next(...words(200), pause(), ...words(200), done())
  const running = send(proxy.url, { key, json: streamed })
  await proxy.until(() => running.tokens === 200)
  const early = await ask(chat)
  expect(early.status).toBe(429)
  expect(errorOf(early)).toMatchObject({ code: 'rate_limit_exceeded', type: 'tokens' })
  ollama.resume()
  await running.over
  expect(running.finishReason).toBe('length')
  ollama.otherwise(...words(400), done())
  for (;;) {
    const one = await ask(chat)
    if (one.status === 200) continue
    // Not filled, but no room for a prompt and a token: waiting can't help either.
    if (errorOf(one).code === 'rate_limit_exceeded') {
      expect(one.headers.get('retry-after')).toBeNull()
      expect(one.headers.get('retry-after-ms')).toBeNull()
      expect(one.headers.get('x-should-retry')).toBe('false')
      const { total_token_limit: total } = await standing(session, key)
      expect(total?.used).toBeLessThan(300)
      await proxy.admin('/admin/users/alice/limits', {
        method: 'PUT',
        json: { total_token_limit: total?.used ?? 0 },
      })
      continue
    }
    expect(errorOf(one)).toMatchObject({ code: 'insufficient_quota', type: 'insufficient_quota' })
    expect(one.headers.get('retry-after')).toBeNull()
    expect(one.headers.get('retry-after-ms')).toBeNull()
    expect(one.headers.get('x-should-retry')).toBe('false')
    break
  }
  // A year later it still is.
  proxy.pass(365 * DAY_MS)
  for (let count = 0; count < 4; count++) proxy.server.tick()
  expect(errorOf(await ask(chat)).code).toBe('insufficient_quota')
  // And a raised total admits.
  await proxy.admin('/admin/users/alice/limits', { method: 'PUT', json: { total_token_limit: 5000 } })
  expect((await ask(chat)).status).toBe(200)
})

test('with only reservations in the way the wait is a second and the code is rate_limit_exceeded', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  for (const limits of [{ tokens_per_minute: 700 }, { tokens_per_day: 700 }, { total_token_limit: 700 }]) {
    const userId = `user-${Object.keys(limits)[0]}`
    const key = await proxy.createUser(userId, limitsOf(limits))
    const ask = asker(session, key)
    ollama.next(pause(), say('ok'), done())
    const running = send(proxy.url, { key, json: streamed })
    await ollama.reached()
    const refused = await ask(chat)
    expect(refused.status).toBe(429)
    expect(refused.headers.get('retry-after')).toBe('1')
    expect(retryMs(refused)).toBe(1000)
    expect(refused.headers.get('x-should-retry')).toBeNull()
    expect(errorOf(refused).code).toBe('rate_limit_exceeded')
    expect(errorOf(refused).message).toMatch(/used 0, reserved by requests in flight \d+, .* in 1s\.$/)
    ollama.resume()
    await running.over
    ollama.next(say('ok'), done())
    expect((await ask(chat)).status).toBe(200)
  }
})

test('of several limits in the way the one with the longest wait is named', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  const key = await proxy.createUser(
    'alice',
    limitsOf({ requests_per_minute: 1, requests_per_day: 2, tokens_per_minute: 5000, tokens_per_day: 5000 }),
  )
  const ask = asker(session, key)
  ollama.otherwise(...words(10), done())
  expect((await ask(chat)).status).toBe(200)
  expect(errorOf(await ask(chat)).message).toStartWith('Limit of 1 request per minute')
  proxy.pass(MINUTE_MS)
  expect((await ask(chat)).status).toBe(200)
  const refused = await ask(chat)
  expect(errorOf(refused).message).toStartWith('Limit of 2 requests per day')
  expect(retryMs(refused)).toBeGreaterThan(DAY_MS - 2 * MINUTE_MS)
  const change = { requests_per_day: null, tokens_per_day: 5 }
  await proxy.admin('/admin/users/alice/limits', { method: 'PUT', json: change })
  // The request alone is larger than that: no wait is longer than never.
  const never = await ask(chat)
  expect(errorOf(never).message).toStartWith('Limit of 5 tokens per day')
  expect(never.headers.get('retry-after')).toBeNull()
})

test('of a model nobody has heard, what most likely fits a small limit is answered and not told that it never can', async () => {
  for (const name of ['tokens_per_minute', 'tokens_per_day', 'total_token_limit']) {
    const session = await startSession()
    const { ollama, proxy } = session
    ollama.otherwise(...words(30), done())
    const ask = asker(session, await proxy.createUser('alice', limitsOf({ [name]: 50 })))
    const first = await ask(chat)
    expect(first.status).toBe(200)
    expect(JSON.parse(first.body).usage).toMatchObject({ prompt_tokens: PROMPT })
    const used = JSON.parse(first.body).usage.total_tokens
    expect(used).toBeGreaterThan(10)
    // What was held back for a longer prompt is free again, and the window is as full as the answer was long.
    const { body } = await proxy.admin('/admin/users/alice/limits')
    const standing = (body as { current: Record<string, State> }).current[name]
    expect(standing).toMatchObject({ used, reserved: 0 })
  }
})

test('a request that can never fit is told so, and is not asked to retry', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  const long = { model: 'm', messages: [{ role: 'user', content: 'word '.repeat(5000) }] }
  for (const limits of [{ tokens_per_minute: 500 }, { tokens_per_day: 500 }, { total_token_limit: 500 }]) {
    const key = await proxy.createUser(`user-${Object.keys(limits)[0]}`, limitsOf(limits))
    const refused = await asker(session, key)(long)
    expect(refused.status).toBe(429)
    expect(refused.headers.get('x-should-retry')).toBe('false')
    expect(refused.headers.get('retry-after')).toBeNull()
    expect(refused.headers.get('retry-after-ms')).toBeNull()
    expect(errorOf(refused)).toMatchObject({ code: 'rate_limit_exceeded', type: 'tokens' })
    expect(errorOf(refused).message).toContain('can never fit')
  }
  const nothing = await proxy.createUser('nothing', limitsOf({ requests_per_minute: 0 }))
  const refused = await asker(session, nothing)(chat)
  expect(refused.headers.get('x-should-retry')).toBe('false')
  expect(refused.headers.get('retry-after')).toBeNull()
  expect(ollama.requests.filter(one => one.path === '/api/chat')).toHaveLength(0)
})

test('every metered answer says what was left at its admission; others and the unlimited say nothing', async () => {
  const session = await startSession({
    simulator: { models: [{ name: 'm', capabilities: ['completion', 'embedding', 'tools', 'vision'] }] },
  })
  const { ollama, proxy } = session
  const key = await proxy.createUser(
    'alice',
    limitsOf({
      requests_per_minute: 7,
      requests_per_day: 100,
      tokens_per_minute: 10_000,
      tokens_per_day: 1_000_000,
    }),
  )
  const ask = asker(session, key)
  ollama.otherwise(say('ok'), done())
  const form = new FormData()
  form.set('model', 'm')
  form.set('messages', JSON.stringify(hello))
  const upload = async () => {
    const one = send(proxy.url, { path: '/v1/chat/completions/upload', key, form })
    await one.over
    return one
  }
  const metered = [
    () => ask(chat),
    () => ask(streamed),
    () => ask({ model: 'm', prompt: 'Hello' }, '/v1/completions'),
    () => ask({ model: 'm', input: 'Hello' }, '/v1/embeddings'),
    upload,
    async () => {
      ollama.next(status(500))
      return ask(chat)
    },
  ]
  let remaining = 7
  let tokensUsed = 0
  for (const one of metered) {
    const answer = await one()
    remaining--
    const headers = limitHeaders(answer)
    expect(headers).toMatchObject({
      'x-ratelimit-limit-requests': '7',
      'x-ratelimit-remaining-requests': String(remaining),
      'x-ratelimit-reset-requests': '1m0s',
      'x-ratelimit-limit-tokens': '10000',
    })
    // What is reserved for this answer is no longer left; the state after it is in /v1/limits.
    const left = Number(headers['x-ratelimit-remaining-tokens'])
    expect(left).toBeLessThan(10_000 - tokensUsed)
    expect(left).toBeGreaterThan(10_000 - tokensUsed - 1000)
    expect(headers['x-ratelimit-reset-tokens']).toMatch(/^(1m0s|1m0\.[0-6]\d*s)$/)
    tokensUsed = (await standing(session, key))['tokens_per_minute']?.used ?? 0
  }
  expect((await ask(chat)).status).toBe(200)
  const refused = await ask(chat)
  expect(refused.status).toBe(429)
  expect(limitHeaders(refused)).toMatchObject({
    'x-ratelimit-remaining-requests': '0',
    'x-ratelimit-remaining-tokens': String(10_000 - tokensUsed - PROMPT - 2),
  })
  for (const path of ['/v1/models', '/v1/limits', '/v1/usage']) {
    const answer = await proxy.call(path, { key })
    expect(answer.status).toBe(200)
    expect(limitHeaders(answer)).toEqual({})
  }
  expect((await standing(session, key))['requests_per_minute']?.used).toBe(7)

  const unlimited = await proxy.createUser('bob')
  expect(limitHeaders(await asker(session, unlimited)(chat))).toEqual({})
  const half = await proxy.createUser('carol', limitsOf({ tokens_per_day: 5000 }))
  expect(Object.keys(limitHeaders(await asker(session, half)(chat)))).toEqual([
    'x-ratelimit-limit-tokens',
    'x-ratelimit-remaining-tokens',
    'x-ratelimit-reset-tokens',
  ])
})

test('the headers speak of the window with the smallest remaining share', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  const key = await proxy.createUser('alice', limitsOf({ requests_per_minute: 4, requests_per_day: 8 }))
  const ask = asker(session, key)
  ollama.otherwise(say('ok'), done())
  const seen: (string | undefined)[] = []
  for (let count = 0; count < 8; count++) {
    const headers = limitHeaders(await ask(chat))
    seen.push(`${headers['x-ratelimit-remaining-requests']} of ${headers['x-ratelimit-limit-requests']}`)
    if (count === 3) proxy.pass(MINUTE_MS)
  }
  // Minute: 3, 2, 1, 0 of 4. A minute later the day (3 of 8) is tighter than the minute (3 of 4), until both are empty.
  expect(seen).toEqual(['3 of 4', '2 of 4', '1 of 4', '0 of 4', '3 of 8', '2 of 8', '1 of 8', '0 of 4'])
})

test('the headers are true at the admission, whoever else is in flight', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  const key = await proxy.createUser(
    'alice',
    limitsOf({ requests_per_minute: 20, tokens_per_minute: 10_000 }),
  )
  ollama.otherwise(pause(), say('ok'), done())
  const all = Array.from({ length: 10 }, () => send(proxy.url, { key, json: chat }))
  await ollama.reached('', 10)
  const state = await standing(session, key)
  const promised = state['tokens_per_minute']?.reserved ?? 0
  ollama.resume()
  await allOver(all)
  const remaining = (unit: string) =>
    all.map(one => Number(one.headers.get(`x-ratelimit-remaining-${unit}`))).sort((a, b) => b - a)
  expect(remaining('requests')).toEqual([19, 18, 17, 16, 15, 14, 13, 12, 11, 10])
  expect(remaining('tokens')).toEqual(
    Array.from({ length: 10 }, (_, index) => 10_000 - ((index + 1) * promised) / 10),
  )
})

test('the limits’ view: used without reserved, reserved, and when the window would be empty', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  const limits = {
    requests_per_minute: 10,
    requests_per_day: 100,
    tokens_per_minute: 5000,
    tokens_per_day: null,
    total_token_limit: 50_000,
  }
  const key = await proxy.createUser('alice', limits)
  const at = (ms: number) => new Date(ms).toISOString()
  const start = proxy.clock.now()
  expect((await standing(session, key))['requests_per_minute']).toEqual({
    used: 0,
    reserved: 0,
    limit: 10,
    resets_at: at(start),
  })
  ollama.next(pause('first line'), ...words(30), pause('middle'), ...words(10), done())
  const running = send(proxy.url, { key, json: { ...streamed, max_tokens: 100 } })
  await ollama.reached('first line')
  const promised = await standing(session, key)
  const reserved = promised['tokens_per_minute']?.reserved ?? 0
  expect(promised).toMatchObject({
    requests_per_minute: { used: 1, reserved: 0, resets_at: at(start + MINUTE_MS) },
    requests_per_day: { used: 1, limit: 100 },
    tokens_per_minute: { used: 0, limit: 5000 },
    tokens_per_day: { used: 0, reserved, limit: null },
    total_token_limit: { used: 0, reserved, limit: 50_000, resets_at: null },
  })
  expect(reserved).toBeGreaterThan(100)
  proxy.pass(10_000)
  ollama.resume('first line')
  await proxy.until(() => running.tokens === 30)
  const prompt = reserved - 100
  expect(await standing(session, key)).toMatchObject({
    tokens_per_minute: { used: prompt + 30, reserved: 70 },
    total_token_limit: { used: prompt + 30, reserved: 70, resets_at: null },
  })
  proxy.pass(20_000)
  ollama.resume('middle')
  await running.over
  const end = await standing(session, key)
  expect(end).toMatchObject({
    requests_per_minute: { used: 1, resets_at: at(start + MINUTE_MS) },
    tokens_per_minute: { used: PROMPT + 41, reserved: 0 },
    tokens_per_day: { used: PROMPT + 41, reserved: 0 },
    total_token_limit: { used: PROMPT + 41, reserved: 0, resets_at: null },
  })
  // The prompt and 30 tokens leave ten seconds after the admission's minute, the last eleven thirty seconds after.
  const emptyMs = Date.parse(end['tokens_per_minute']?.resets_at ?? '') - start
  expect(emptyMs).toBeGreaterThanOrEqual(90_000)
  expect(emptyMs).toBeLessThanOrEqual(90_600)
  proxy.pass(70_600 - 30_000)
  expect((await standing(session, key))['tokens_per_minute']).toMatchObject({ used: 11 })
  proxy.pass(emptyMs - 70_600 - 1)
  expect((await standing(session, key))['tokens_per_minute']).toMatchObject({ used: 11 })
  proxy.pass(1)
  expect(await standing(session, key)).toMatchObject({
    requests_per_minute: { used: 0 },
    requests_per_day: { used: 1 },
    tokens_per_minute: { used: 0, resets_at: at(proxy.clock.now()) },
    total_token_limit: { used: PROMPT + 41 },
  })
})
