import { expect, test } from 'bun:test'
import { connect } from 'node:net'
import { done, pause, say, stall } from '../../src/simulator/script.ts'
import { hello, historyOf, limitsOf, startSession } from '../support/session.ts'

const words = (count: number) => Array.from({ length: count }, (_, index) => say(`w${index} `))

test('forty parallel requests under a limit of ten admit exactly ten', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', {
    requests_per_minute: 10,
    requests_per_day: null,
    tokens_per_minute: null,
    tokens_per_day: null,
    total_token_limit: null,
  })
  ollama.otherwise(say('ok'), done())
  const answers = await Promise.all(
    Array.from({ length: 40 }, () =>
      proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello } }),
    ),
  )
  expect(answers.filter(answer => answer.status === 200)).toHaveLength(10)
  expect(answers.filter(answer => answer.status === 429)).toHaveLength(30)
  expect(ollama.generating()).toHaveLength(10)
})

test('a refusal names the limit and the exact time to come back', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', {
    requests_per_minute: 1,
    requests_per_day: null,
    tokens_per_minute: null,
    tokens_per_day: null,
    total_token_limit: null,
  })
  ollama.otherwise(say('ok'), done())
  const ask = () => proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello } })
  expect((await ask()).status).toBe(200)
  proxy.pass(1500)
  const refused = await ask()
  expect(refused.status).toBe(429)
  expect(refused.headers.get('retry-after-ms')).toBe('58500')
  expect(refused.headers.get('retry-after')).toBe('59')
  expect(await refused.json()).toMatchObject({
    error: { type: 'requests', code: 'rate_limit_exceeded', param: null },
  })
  proxy.pass(58_499)
  expect((await ask()).status).toBe(429)
  proxy.pass(1)
  expect((await ask()).status).toBe(200)
})

test('an answer longer than its grant ends with length when the limit is reached, billed for what was delivered', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', {
    requests_per_minute: null,
    requests_per_day: null,
    tokens_per_minute: 2000,
    tokens_per_day: null,
    total_token_limit: null,
  })
  // Two streams share what is left, so that Ollama's own cap can't end either: 600 words, then they wait for each other.
  ollama.otherwise(...words(700), pause(), ...words(800), done())
  const ask = () =>
    proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello, stream: true } })
  const answers = await Promise.all([ask(), ask()])
  await ollama.reached('', 2)
  ollama.resume()
  const texts = await Promise.all(answers.map(answer => answer.text()))
  expect(texts.some(text => text.includes('"finish_reason":"length"'))).toBe(true)
  for (const text of texts) expect(text).toEndWith('data: [DONE]\n\n')
  const delivered = texts.join('').match(/"content":"w\d+ "/g)?.length ?? 0
  const rows = await historyOf(proxy, key)
  const total = rows.reduce((sum, row) => sum + Number(row['total_tokens']), 0)
  expect(total).toBeLessThanOrEqual(2000)
  expect(total).toBeGreaterThan(1900)
  expect(delivered).toBeLessThanOrEqual(total)
})

test('a request alone is admitted with little room, and Ollama is told not to go over it', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', {
    requests_per_minute: null,
    requests_per_day: null,
    tokens_per_minute: 100,
    tokens_per_day: null,
    total_token_limit: null,
  })
  ollama.otherwise(...words(300), done())
  const answer = await proxy.sdk(key).chat.completions.create({ model: 'm', messages: hello })
  const [received] = ollama.generating()
  const { num_predict: numPredict } = (received?.body['options'] ?? {}) as { num_predict?: number }
  expect(answer.choices[0]?.finish_reason).toBe('length')
  expect(answer.usage?.completion_tokens).toBe(numPredict ?? -1)
  expect(answer.usage?.total_tokens).toBeLessThanOrEqual(100)
})

test('waiting requests stand in line in turn by user, and past MAX_QUEUE are told to come back', async () => {
  const { ollama, proxy } = await startSession({ settings: { OLLAMA_MAX_CONCURRENT: '1', MAX_QUEUE: '3' } })
  const [alice, bob] = [await proxy.createUser('alice'), await proxy.createUser('bob')]
  const order: string[] = []
  const ask = async (key: string, name: string) => {
    const answer = await proxy.call('/v1/chat/completions', {
      key,
      json: { model: 'm', messages: [{ role: 'user', content: name }] },
    })
    order.push(`${name} ${answer.status}`)
    return answer
  }
  ollama.otherwise(pause(), say('ok'), done())
  const first = ask(alice, 'a1')
  await ollama.reached()
  const second = ask(alice, 'a2')
  await proxy.until(() => proxy.server.inFlight === 2)
  const third = ask(alice, 'a3')
  await proxy.until(() => proxy.server.inFlight === 3)
  const other = ask(bob, 'b1')
  await proxy.until(() => proxy.server.inFlight === 4)
  const refused = await ask(bob, 'b2')
  expect(refused.status).toBe(503)
  expect(refused.headers.get('retry-after')).not.toBeNull()
  expect(await refused.json()).toMatchObject({ error: { code: 'overloaded' } })
  for (let turn = 1; turn <= 4; turn++) {
    await ollama.reached()
    ollama.resume()
    await proxy.until(() => order.length === turn + 1)
  }
  await Promise.all([first, second, third, other])
  expect(order).toEqual(['b2 503', 'a1 200', 'a2 200', 'b1 200', 'a3 200'])
  expect(await historyOf(proxy, bob)).toHaveLength(1)
})

test('who leaves the line costs nothing, not even a request', async () => {
  const { ollama, proxy } = await startSession({ settings: { OLLAMA_MAX_CONCURRENT: '1' } })
  const limits = {
    requests_per_minute: 2,
    requests_per_day: null,
    tokens_per_minute: null,
    tokens_per_day: null,
    total_token_limit: null,
  }
  const key = await proxy.createUser('alice', limits)
  ollama.next(pause(), say('ok'), done())
  const ask = (signal?: AbortSignal) =>
    proxy.call('/v1/chat/completions', {
      key,
      json: { model: 'm', messages: hello },
      ...(signal && { signal }),
    })
  const first = ask()
  await ollama.reached()
  const controller = new AbortController()
  const waiting = ask(controller.signal).catch(() => undefined)
  await proxy.until(() => proxy.server.inFlight === 2)
  controller.abort()
  await waiting
  await proxy.until(() => proxy.server.inFlight === 1)
  ollama.resume()
  expect((await first).status).toBe(200)
  ollama.next(say('ok'), done())
  expect((await ask()).status).toBe(200)
  expect(await historyOf(proxy, key)).toHaveLength(2)
  expect(ollama.generating()).toHaveLength(2)
})

test('a client that stops reading is cut off in time, while Ollama’s own timer rests', async () => {
  const { ollama, proxy } = await startSession({
    settings: { CLIENT_STALL_TIMEOUT_S: '60', UPSTREAM_IDLE_TIMEOUT_S: '40' },
  })
  const key = await proxy.createUser('alice')
  const long = 'x'.repeat(64 * 1024)
  ollama.next(...Array.from({ length: 2000 }, () => say(long)), stall())
  // A socket that is never read: fetch would read ahead into memory by itself.
  const body = JSON.stringify({ model: 'm', messages: hello, stream: true })
  const socket = connect(proxy.port, '127.0.0.1').pause()
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${key}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  )
  await ollama.arrived()
  const delivered = () => ollama.generating()[0]?.delivered().bytes ?? 0
  // In steps shorter than Ollama's own timer, each with time for everything that still moves.
  let stalledMs = 0
  let last = -1
  while (proxy.server.inFlight > 0) {
    await proxy.turns(40)
    stalledMs = delivered() === last ? stalledMs + 5000 : 0
    last = delivered()
    proxy.pass(5000)
  }
  expect(stalledMs).toBeGreaterThanOrEqual(50_000)
  expect(stalledMs).toBeLessThanOrEqual(70_000)
  expect(last).toBeLessThan(40 * 1024 * 1024)
  await proxy.settled()
  expect(await ollama.generating()[0]?.closed).toBe('hung up')
  expect((await historyOf(proxy, key))[0]).toMatchObject({ outcome: 'cancelled' })
  socket.destroy()
})

test('who stood in line is given what is left when its turn comes, not what was left when it came', async () => {
  const session = await startSession({ settings: { OLLAMA_MAX_CONCURRENT: '1' } })
  const { ollama, proxy } = session
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 1000 }))
  const predicted = () => ollama.generating().map(({ body }) => body['options'] as { num_predict: number })
  const ask = (max_tokens: number) =>
    proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello, max_tokens } })
  // The model is known to answer briefly, so that little is granted to begin with.
  for (let time = 0; time < 40; time++) {
    ollama.next(say('ok'), done({ prompt: 4, completion: 2 }))
    await ask(900)
  }
  proxy.pass(61_000)
  ollama.next(pause(), ...Array.from({ length: 300 }, (_, word) => say(`w${word} `)), done())
  const first = ask(900)
  await ollama.reached()
  ollama.next(say('ok'), done({ prompt: 4, completion: 2 }))
  const second = ask(900)
  await proxy.until(() => proxy.server.inFlight === 2)
  proxy.pass(1000)
  ollama.resume()
  await Promise.all([first, second])
  const [before, after] = predicted().slice(-2)
  expect(before?.num_predict).toBeGreaterThan(850)
  expect(after?.num_predict).toBeLessThan(700)
  expect(after?.num_predict).toBeGreaterThan(600)
})

test('an embedding has no answer to reserve: beside a stream it needs room for its input alone', async () => {
  const { ollama, proxy } = await startSession({
    simulator: { models: ['m', { name: 'e', capabilities: ['embedding'] }] },
  })
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 1000 }))
  ollama.next(say('ok'), pause(), done())
  const stream = proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: hello, stream: true },
  })
  await ollama.reached()
  expect(
    (await proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello } })).status,
  ).toBe(429)
  expect((await proxy.call('/v1/embeddings', { key, json: { model: 'e', input: 'Hello' } })).status).toBe(200)
  ollama.resume()
  await (await stream).text()
})

test('a total that requests in flight may give back is waited for; only settled use is told to be for good', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', limitsOf({ total_token_limit: 100 }))
  const ask = (content: string) => {
    const json = { model: 'm', messages: [{ role: 'user', content }], max_tokens: 5 }
    return proxy.call('/v1/chat/completions', { key, json })
  }
  // Of a model nobody has heard the estimate is far above what the prompt takes, and stands until the end.
  ollama.next(say('ok'), pause(), done())
  const json = {
    model: 'm',
    messages: [{ role: 'user', content: 'Hello '.repeat(8) }],
    max_tokens: 5,
    stream: true,
  }
  const first = proxy.call('/v1/chat/completions', { key, json })
  await ollama.reached()
  const second = await ask('Hello')
  expect(second.status).toBe(429)
  expect(second.headers.get('retry-after-ms')).toBe('1000')
  expect(second.headers.get('x-should-retry')).toBeNull()
  ollama.resume()
  await (await first).text()
  ollama.next(say('ok'), done({ prompt: 85, completion: 2 }))
  expect((await ask('Hello')).status).toBe(200)
  const last = await ask('Hello')
  expect(last.status).toBe(429)
  expect(last.headers.get('x-should-retry')).toBe('false')
})
