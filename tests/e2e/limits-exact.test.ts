import { expect, test } from 'bun:test'
import { done, pause, raw, say, stall, status, think, unlimited } from '../../src/simulator/script.ts'
import { allOver, mostInAnyMinute, type Sent, send, withStatus } from '../support/crowd.ts'
import { hello, historyOf, limitsOf, startSession } from '../support/session.ts'

type Session = Awaited<ReturnType<typeof startSession>>
type Proxy = Session['proxy']

const words = (count: number) => Array.from({ length: count }, (_, index) => say(`w${index} `))
const chat = { model: 'm', messages: hello }
const streamed = { ...chat, stream: true }
/** What the simulated model counts for `hello`. */
const PROMPT = 4

const secondKey = async (proxy: Proxy, userId: string): Promise<string> => {
  const { body } = await proxy.admin(`/admin/users/${userId}/keys`, { json: {} })
  return (body as { api_key: string }).api_key
}

type State = { used: number; reserved: number; limit: number | null; resets_at: string | null }
const standing = async (proxy: Proxy, key: string) => {
  const answer = await proxy.call('/v1/limits', { key })
  return ((await answer.json()) as { current: Record<string, State> }).current
}
const usedIn = async (proxy: Proxy, key: string, name: string) => (await standing(proxy, key))[name]?.used
const reservedIn = async (proxy: Proxy, key: string, name: string) =>
  (await standing(proxy, key))[name]?.reserved

/** Another user's fifty answers, so that prompts and answers of the model are known well. */
const teach = async ({ ollama, proxy }: Session, answerTokens: number) => {
  const key = await proxy.createUser('teacher')
  ollama.otherwise(...words(answerTokens), done())
  for (let round = 0; round < 5; round++) {
    const all = Array.from({ length: 10 }, () => send(proxy.url, { key, json: streamed }))
    await allOver(all)
  }
}

/** A request in one of many guises: each path, each spelling of the model, streams and plain answers. */
const guise = (index: number, key: string) => {
  const model = ['m', 'M', 'm:latest', 'library/m', 'registry.ollama.ai/library/m:latest'][index % 5]
  const stream = index % 2 === 0
  switch (index % 4) {
    case 0:
      return { key, json: { model, messages: hello, stream } }
    case 1:
      return { path: '/v1/completions', key, json: { model, prompt: 'Hello', stream } }
    case 2:
      return { path: '/v1/embeddings', key, json: { model, input: 'Hello' } }
    default: {
      const form = new FormData()
      form.set('model', String(model))
      form.set('messages', JSON.stringify(hello))
      form.set('stream', String(stream))
      return { path: '/v1/chat/completions/upload', key, form }
    }
  }
}

const ofWork = (ollama: Session['ollama']) =>
  ollama.requests.filter(one => ['/api/chat', '/api/generate', '/api/embed'].includes(one.path))

for (const keys of [1, 2]) {
  test(`five hundred parallel requests with ${keys} key(s) under ten a minute admit exactly ten, and ten more a minute later`, async () => {
    const { ollama, proxy } = await startSession()
    const key = await proxy.createUser('alice', limitsOf({ requests_per_minute: 10 }))
    const own = keys === 1 ? [key] : [key, await secondKey(proxy, 'alice')]
    ollama.otherwise(say('ok'), done())
    const burst = async () => {
      const all = Array.from({ length: 500 }, (_, index) =>
        send(proxy.url, { key: own[index % keys] ?? key, json: index % 2 === 0 ? chat : streamed }),
      )
      await allOver(all)
      expect(withStatus(all, 200).length + withStatus(all, 429).length).toBe(500)
      return withStatus(all, 200).length
    }
    expect(await burst()).toBe(10)
    proxy.pass(59_999)
    expect(await burst()).toBe(0)
    proxy.pass(1)
    expect(await burst()).toBe(10)
    expect(ofWork(ollama)).toHaveLength(20)
  })
}

test('no other endpoint, spelling, upload, retry or aborted stream is a way around ten requests a minute', async () => {
  const { ollama, proxy } = await startSession({
    simulator: { models: [{ name: 'm', capabilities: ['completion', 'embedding', 'tools', 'vision'] }] },
  })
  const key = await proxy.createUser('alice', limitsOf({ requests_per_minute: 10 }))
  const own = [key, await secondKey(proxy, 'alice')]
  ollama.otherwise(say('ok'), pause(), say('more'), done())
  const all = Array.from({ length: 500 }, (_, index) =>
    send(proxy.url, guise(index, own[Math.floor(index / 4) % 2] ?? key)),
  )
  // Who leaves before anything was sent to Ollama costs nothing, so all ten must have got there.
  await proxy.until(() => withStatus(all, 429).length === 490 && ofWork(ollama).length === 10)
  // Those that speak hang up in the middle; what was refused tries again, twice.
  for (const one of all) if (one.status !== 429) one.leave()
  await allOver(all)
  await proxy.settled()
  const again = Array.from({ length: 200 }, (_, index) =>
    send(proxy.url, guise(index, own[index % 2] ?? key)),
  )
  await allOver(again)
  expect(withStatus(again, 429)).toHaveLength(200)
  expect(ofWork(ollama)).toHaveLength(10)
  expect(await historyOf(proxy, key)).toHaveLength(10)
})

for (const keys of [1, 2]) {
  test(`five hundred parallel streams with ${keys} key(s) under 1,000 tokens a minute: at most 1,000 in any minute, whole answers, 95 % usable`, async () => {
    const session = await startSession()
    const { ollama, proxy } = session
    await teach(session, 40)
    const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 1000 }))
    const own = keys === 1 ? [key] : [key, await secondKey(proxy, 'alice')]
    const everything: Sent[] = []
    const ask = (index: number) => {
      const one = send(proxy.url, { key: own[index % keys] ?? key, json: streamed }, proxy.clock.steady)
      everything.push(one)
      return one
    }
    const events = () => everything.flatMap(one => one.events)

    ollama.otherwise(...words(20), pause(), ...words(20), done())
    const burst = Array.from({ length: 500 }, (_, index) => ask(index))
    await proxy.until(() =>
      burst.every(one => one.status === 429 || (one.status === 200 && one.tokens === 20)),
    )
    const admitted = withStatus(burst, 200)
    expect(admitted.length).toBeGreaterThan(10)
    // Half of each answer comes half a minute later.
    proxy.pass(30_000)
    ollama.resume()
    await allOver(burst)
    for (const one of admitted)
      expect({ tokens: one.tokens, why: one.finishReason }).toEqual({ tokens: 41, why: 'stop' })

    // Two minutes more of a greedy client: whenever it is refused it tries again a second later.
    ollama.otherwise(...words(40), done())
    for (let second = 0; second < 120; second++) {
      for (let index = 0; ; index++) {
        const one = ask(index)
        await one.over
        if (one.status !== 200) break
      }
      if (second === 0) expect(mostInAnyMinute(events())).toBeGreaterThanOrEqual(950)
      proxy.pass(1000)
    }
    expect(mostInAnyMinute(events())).toBeLessThanOrEqual(1000)
    const rows = await proxy.admin('/admin/users/alice/usage')
    expect(rows.body).toMatchObject({
      usage: { total_tokens: events().reduce((sum, { tokens }) => sum + tokens, 0) },
    })
    // Beginning anywhere, two full minutes hold nearly twice the limit, never more.
    expect(events().reduce((sum, { tokens }) => sum + tokens, 0)).toBeGreaterThan(2 * 950)
  }, 20_000)
}

test('plain requests: of five hundred in parallel the admitted ones are whole and stay under 1,000 tokens together', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  await teach(session, 40)
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 1000 }))
  const all = Array.from({ length: 500 }, () => send(proxy.url, { key, json: chat }))
  await allOver(all)
  const usages = withStatus(all, 200).map(
    one => JSON.parse(one.body) as { choices: [{ finish_reason: string }]; usage: { total_tokens: number } },
  )
  expect(usages.length).toBeGreaterThan(10)
  for (const { choices, usage } of usages) {
    expect(choices[0].finish_reason).toBe('stop')
    expect(usage.total_tokens).toBe(PROMPT + 41)
  }
  expect(usages.length * (PROMPT + 41)).toBeLessThanOrEqual(1000)
  expect(await usedIn(proxy, key, 'tokens_per_minute')).toBe(usages.length * (PROMPT + 41))
  // What is left goes to those who come later, to the last token.
  ollama.otherwise(...words(60), done())
  for (;;) {
    const one = send(proxy.url, { key, json: chat })
    await one.over
    if (one.status !== 200) break
  }
  const used = await usedIn(proxy, key, 'tokens_per_minute')
  expect(used).toBeGreaterThanOrEqual(950)
  expect(used).toBeLessThanOrEqual(1000)
})

test('a user who keeps to its limits is never refused, beside another who does not', async () => {
  const { ollama, proxy } = await startSession()
  const crowd = await proxy.createUser('crowd', limitsOf({ requests_per_minute: 1, tokens_per_minute: 1000 }))
  const limits = limitsOf({ requests_per_minute: 10, requests_per_day: 1000, tokens_per_minute: 2000 })
  const light = await proxy.createUser('light', limits)
  ollama.otherwise(say('ok'), done())
  // Ten a minute, exactly: one every six seconds for three minutes.
  for (let sixth = 0; sixth < 30; sixth++) {
    const noise = Array.from({ length: 20 }, () => send(proxy.url, { key: crowd, json: streamed }))
    const one = send(proxy.url, { key: light, json: streamed })
    await allOver([one, ...noise])
    expect(one.status).toBe(200)
    expect(one.finishReason).toBe('stop')
    proxy.pass(6000)
  }
})

test('bursts at the edge of every minute for five minutes get the limit, not twice the limit', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', limitsOf({ requests_per_minute: 10 }))
  const thrifty = await proxy.createUser('bob', limitsOf({ tokens_per_minute: 600 }))
  ollama.otherwise(...words(20), done())
  const requests: { atMs: number; tokens: number }[] = []
  const tokens: { atMs: number; tokens: number }[] = []
  const burst = async () => {
    const ofRequests = Array.from({ length: 25 }, () => send(proxy.url, { key, json: streamed }))
    const ofTokens = Array.from({ length: 25 }, () =>
      send(proxy.url, { key: thrifty, json: { ...streamed, max_tokens: 30 } }, proxy.clock.steady),
    )
    await allOver([...ofRequests, ...ofTokens])
    requests.push({ atMs: proxy.clock.steady(), tokens: withStatus(ofRequests, 200).length })
    tokens.push(...ofTokens.flatMap(one => one.events))
  }
  const untilNext = (offset: number) => {
    const intoMinute = proxy.clock.steady() % 60_000
    proxy.pass((offset - intoMinute + 60_000) % 60_000)
  }
  for (let minute = 0; minute < 5; minute++) {
    for (const offset of [59_000, 59_999, 0, 1, 1000]) {
      untilNext(offset)
      await burst()
    }
  }
  expect(mostInAnyMinute(requests)).toBe(10)
  expect(requests.reduce((sum, one) => sum + one.tokens, 0)).toBe(50)
  expect(mostInAnyMinute(tokens)).toBeLessThanOrEqual(600)
  expect(mostInAnyMinute(tokens)).toBeGreaterThan(300)
})

test('n choices are one request, their prompts and answers summed', async () => {
  const { ollama, proxy } = await startSession()
  const limits = limitsOf({ requests_per_minute: 10, tokens_per_minute: 5000 })
  const key = await proxy.createUser('alice', limits)
  const reservedFor = async (n: number) => {
    ollama.next(pause(), status(500))
    const failing = send(proxy.url, { key, json: { ...chat, n, max_tokens: 100 } })
    await ollama.reached()
    const reserved = (await reservedIn(proxy, key, 'tokens_per_minute')) ?? 0
    ollama.resume()
    await failing.over
    return reserved
  }
  expect(await reservedFor(3)).toBe(3 * (await reservedFor(1)))
  ollama.otherwise(...words(10), done())
  const one = send(proxy.url, { key, json: { ...chat, n: 3, max_tokens: 100 } })
  await one.over
  expect(JSON.parse(one.body)).toMatchObject({
    usage: { prompt_tokens: 3 * PROMPT, completion_tokens: 3 * 11 },
  })
  expect(await standing(proxy, key)).toMatchObject({
    requests_per_minute: { used: 3 },
    tokens_per_minute: { used: 3 * (PROMPT + 11), reserved: 0 },
  })
})

test('n choices never get more than one request would: what is left is for all runs together', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 500 }))
  ollama.otherwise(...words(400), done())
  const one = send(proxy.url, { key, json: { ...streamed, n: 4 } })
  await one.over
  expect(one.body).toContain('"finish_reason":"length"')
  const used = (await usedIn(proxy, key, 'tokens_per_minute')) ?? 0
  expect(used).toBeLessThanOrEqual(500)
  expect(used).toBeGreaterThan(200)
})

test('a choice is not begun when another request has taken what was left', async () => {
  for (const json of [chat, streamed]) {
    const session = await startSession()
    const { ollama, proxy } = session
    await teach(session, 13)
    const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 500 }))
    const before = ollama.generating().length
    ollama.otherwise(pause(), ...words(200), done())
    const first = send(proxy.url, { key, json: { ...json, n: 3, max_tokens: 30 } })
    await ollama.reached()
    ollama.otherwise(...words(1000), done())
    const other = send(proxy.url, { key, json: chat })
    await other.over
    expect(other.finishReason).toBe('length')
    ollama.otherwise(...words(200), done())
    ollama.resume()
    await first.over
    expect(first.status).toBe(200)
    const { tokens_per_minute: state } = await standing(proxy, key)
    expect(state?.used).toBeLessThanOrEqual(500)
    expect(state?.reserved).toBe(0)
    // The first choice's thirty tokens and what the grant held for a second one.
    expect(ollama.generating().length - before).toBeLessThanOrEqual(3)
  }
})

for (const { stop, held, least } of [
  { stop: ['x'.repeat(300), 'y'], held: 300, least: 3 },
  { stop: 'é'.repeat(150), held: 300, least: 3 },
  { stop: ['x '], held: 2, least: 20 },
]) {
  const [longest] = [stop].flat()
  for (const { path, json } of [
    { path: '/v1/chat/completions', json: streamed },
    { path: '/v1/completions', json: { model: 'm', prompt: 'Hello', stream: true } },
  ]) {
    test(`room is kept for what a stop string of ${longest?.length} letters keeps from being shown, by ${path}`, async () => {
      const session = await startSession()
      const { ollama, proxy } = session
      await teach(session, 13)
      const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 1000 }))
      // Ollama holds back what may become the stop string, and when it does drops it: counted, and never a line.
      ollama.otherwise(say('ok'), pause(), done({ completion: 2 + held }))
      const all = Array.from({ length: 60 }, () => send(proxy.url, { key, path, json: { ...json, stop } }))
      await proxy.until(() => all.every(one => one.status !== 0))
      ollama.resume()
      await allOver(all)
      const admitted = withStatus(all, 200)
      expect(admitted.length).toBeGreaterThanOrEqual(least)
      expect(admitted.every(one => one.finishReason === 'stop')).toBe(true)
      const { tokens_per_minute: state } = await standing(proxy, key)
      expect(state?.used).toBeGreaterThanOrEqual(admitted.length * (2 + held))
      expect(state?.used).toBeLessThanOrEqual(1000)
      expect(state?.reserved).toBe(0)
    })
  }
}

test('a stream stops in time for what a stop string may keep back, a request alone does not', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  await teach(session, 13)
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 600 }))
  const stop = ['x'.repeat(100)]
  ollama.otherwise(...words(60), pause(), ...words(600), done())
  const both = [1, 2].map(() => send(proxy.url, { key, json: { ...streamed, stop } }))
  await ollama.reached('', 2)
  ollama.resume()
  await allOver(both)
  expect(both.map(one => one.finishReason)).toContain('length')
  expect(both.reduce((sum, { tokens }) => sum + tokens, 0)).toBeLessThanOrEqual(600 - 2 * PROMPT - 100)
  expect(await usedIn(proxy, key, 'tokens_per_minute')).toBeLessThanOrEqual(600)
  proxy.pass(61_000)
  ollama.otherwise(...words(900), done())
  const alone = send(proxy.url, { key, json: { ...streamed, stop } })
  await alone.over
  expect(alone.tokens).toBeGreaterThan(580)
  expect(await usedIn(proxy, key, 'tokens_per_minute')).toBeLessThanOrEqual(600)
})

test('Ollama is never told to generate more than is left, nor more than the client asked for', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 1500, total_token_limit: 4000 }))
  const asked = [undefined, 1, 50, 700, 5000, undefined, 20, 3, undefined, undefined, 10, undefined]
  ollama.otherwise(...words(250), done())
  let used = 0
  for (const maxTokens of asked) {
    const one = send(proxy.url, { key, json: { ...chat, ...(maxTokens && { max_tokens: maxTokens }) } })
    await one.over
    if (one.status === 429) continue
    const options = ollama.generating().at(-1)?.body['options'] as { num_predict: number }
    expect(options.num_predict).toBeLessThanOrEqual(1500 - used - PROMPT)
    expect(options.num_predict).toBeLessThanOrEqual(maxTokens ?? Infinity)
    used += (JSON.parse(one.body) as { usage: { total_tokens: number } }).usage.total_tokens
    expect(await usedIn(proxy, key, 'tokens_per_minute')).toBe(used)
  }
  expect(used).toBeGreaterThan(1000)
  expect(used).toBeLessThanOrEqual(1500)
})

test('an answer longer than usual asks for further grants as it goes, and what it does not use returns at once', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 10_000 }))
  ollama.otherwise(...words(500), pause('first grant'), ...words(300), pause('second'), ...words(400), done())
  const one = send(proxy.url, { key, json: streamed })
  await proxy.until(() => one.tokens === 500)
  const promised = async () => {
    const { tokens_per_minute: state } = await standing(proxy, key)
    return (state?.used ?? 0) + (state?.reserved ?? 0)
  }
  const first = await promised()
  expect(first).toBeLessThan(1000)
  ollama.resume('first grant')
  await proxy.until(() => one.tokens === 800)
  const second = await promised()
  expect(second).toBeGreaterThanOrEqual(first + 256)
  expect(second).toBeLessThan(first + 1000)
  ollama.resume('second')
  await one.over
  expect(one.finishReason).toBe('stop')
  expect(await standing(proxy, key)).toMatchObject({
    tokens_per_minute: { used: PROMPT + 1201, reserved: 0 },
  })
})

test('streams in parallel of text that nobody knows how many tokens it takes stay under the limit together', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 2000 }))
  const rare = Array.from({ length: 400 }, () => say('🧿', 3))
  for (let minute = 0; minute < 3; minute++) {
    ollama.otherwise(pause(), ...rare, done())
    const both = [1, 2].map(() => proxy.call('/v1/chat/completions', { key, json: streamed }))
    await ollama.reached('', 2)
    ollama.resume()
    const texts = await Promise.all(both.map(async answer => (await answer).text()))
    // Which of the two outgrows its grant first, or whether both do, is the network's to say: never both end whole.
    // Of one that is cut Ollama gives no count, so ours stands.
    const reasons = texts.map(text => /"finish_reason":"(\w+)"/.exec(text)?.[1])
    expect(reasons).toContain('length')
    expect(await usedIn(proxy, key, 'tokens_per_minute')).toBeLessThanOrEqual(2000)
    const delivered = texts.reduce((tokens, text) => tokens + 3 * text.split('🧿').length - 3, 2 * PROMPT)
    expect(delivered).toBeGreaterThanOrEqual(1400)
    proxy.pass(61_000)
  }
})

test('where Ollama’s count comes together with the lines, it is what must fit, and nothing is cut for doubt', async () => {
  const session = await startSession()
  const { ollama, proxy } = session
  await teach(session, 100)
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 300 }))
  const line = (content: string, rest: object) =>
    `${JSON.stringify({ model: 'm', message: { role: 'assistant', content }, ...rest })}\n`
  const last = { done: true, done_reason: 'stop', prompt_eval_count: PROMPT, eval_count: 101 }
  ollama.otherwise(pause(), raw(line('🧿', { done: false }).repeat(100) + line('', last)))
  const both = [1, 2].map(() => proxy.call('/v1/chat/completions', { key, json: streamed }))
  await ollama.reached('', 2)
  ollama.resume()
  for (const answer of both) expect((await (await answer).text()).match(/🧿/g)).toHaveLength(100)
  expect(await usedIn(proxy, key, 'tokens_per_minute')).toBe(2 * (PROMPT + 101))
})

test('an answer that was delivered whole ends with stop, though Ollama counted more than was granted', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 1200 }))
  ollama.otherwise(...words(400), pause(), done({ completion: 600 }))
  const both = [1, 2].map(() => send(proxy.url, { key, json: streamed }))
  await ollama.reached('', 2)
  await proxy.until(() => both.every(one => one.tokens === 400))
  ollama.resume()
  await allOver(both)
  expect(both.map(one => one.finishReason)).toEqual(['stop', 'stop'])
  expect(await usedIn(proxy, key, 'tokens_per_minute')).toBe(2 * (PROMPT + 600))
})

for (const stream of [true, false]) {
  test(`a refused grant ends ${stream ? 'a stream' : 'a plain answer'} with length, stops Ollama and bills what was delivered`, async () => {
    const { ollama, proxy } = await startSession()
    const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 2000 }))
    ollama.otherwise(...words(400), pause(), ...words(1200), stall())
    const both = [1, 2].map(() => send(proxy.url, { key, json: { ...chat, stream } }))
    await ollama.reached('', 2)
    ollama.resume()
    await allOver(both)
    for (const one of both) {
      expect(one.status).toBe(200)
      expect(one.finishReason).toBe('length')
      if (stream) expect(one.body).toEndWith('data: [DONE]\n\n')
    }
    const rows = await historyOf(proxy, key)
    expect(rows.map(row => row['outcome'])).toEqual(['completed', 'completed'])
    expect(rows.some(row => row['basis'] === 'counted')).toBe(true)
    const delivered = both.reduce((sum, one) => sum + (one.body.match(/w\d+ /g)?.length ?? 0), 0)
    expect(rows.reduce((sum, row) => sum + Number(row['completion_tokens']), 0)).toBe(delivered)
    const used = (await usedIn(proxy, key, 'tokens_per_minute')) ?? 0
    expect(used).toBeLessThanOrEqual(2000)
    expect(used).toBeGreaterThanOrEqual(1900)
    expect(await reservedIn(proxy, key, 'tokens_per_minute')).toBe(0)
    const ends = await Promise.all(ollama.generating().map(received => received.closed))
    expect(ends).toContain('hung up')
  })
}

test('a lowered limit holds from the next grant of a running stream, a raised one too', async () => {
  const { ollama, proxy } = await startSession()
  ollama.otherwise(...words(300), pause(), ...words(2000), done())
  for (const [userId, limit] of [
    ['lowered', 500],
    ['raised', 100_000],
  ] as const) {
    const key = await proxy.createUser(userId, limitsOf({ tokens_per_minute: 1200 }))
    const one = send(proxy.url, { key, json: streamed })
    await proxy.until(() => one.tokens === 300)
    const answer = await proxy.admin(`/admin/users/${userId}/limits`, {
      method: 'PUT',
      json: { tokens_per_minute: limit },
    })
    expect(answer.status).toBe(200)
    ollama.resume()
    await one.over
    expect(one.finishReason).toBe('length')
    // What was granted before stays granted: 512 of output.
    if (userId === 'lowered') expect(one.tokens).toBe(511)
    // Ollama was told of what was left at the admission.
    else expect(one.tokens).toBeGreaterThan(1000)
  }
})

test('a limit lowered below use refuses until use has left the window; a raised one admits at once', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', limitsOf({ requests_per_minute: 10, tokens_per_minute: 5000 }))
  ollama.otherwise(...words(50), done())
  const ask = async () => {
    const one = send(proxy.url, { key, json: { ...chat, max_tokens: 60 } })
    await one.over
    return one
  }
  const change = (limits: Record<string, number | null>) =>
    proxy.admin('/admin/users/alice/limits', { method: 'PUT', json: limits })
  for (let second = 0; second < 5; second++) {
    expect((await ask()).status).toBe(200)
    proxy.pass(1000)
  }
  await change({ requests_per_minute: 3 })
  // Of the requests at 0, 1, 2, 3 and 4 s the one at 2 s is the third newest: one more fits when it has left.
  expect((await ask()).headers.get('retry-after-ms')).toBe('57000')
  await change({ requests_per_minute: 6, tokens_per_minute: 200 })
  const refused = await ask()
  expect(refused.status).toBe(429)
  expect(JSON.parse(refused.body)).toMatchObject({ error: { type: 'tokens' } })
  const waitMs = Number(refused.headers.get('retry-after-ms'))
  proxy.pass(waitMs - 1)
  expect((await ask()).status).toBe(429)
  proxy.pass(1)
  expect((await ask()).status).toBe(200)
  await change({ tokens_per_minute: null, requests_per_minute: null })
  expect((await ask()).status).toBe(200)
})

test('malformed and refused requests cost nothing, not even a request', async () => {
  const { ollama, proxy } = await startSession()
  const limits = limitsOf({ requests_per_minute: 1, tokens_per_minute: 3000, tokens_per_day: 9000 })
  const key = await proxy.createUser('alice', limits)
  const malformed: unknown[] = [
    {},
    { model: 'm' },
    { model: 'm', messages: 'Hello' },
    {
      model: 'm',
      messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:;base64,??' } }] }],
    },
    {
      model: 'm',
      messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'http://127.0.0.1/' } }] }],
    },
    { ...chat, n: 0 },
    { ...chat, max_tokens: 'many' },
  ]
  for (const json of malformed) {
    const one = send(proxy.url, { key, json })
    await one.over
    expect(one.status).toBe(400)
  }
  const tooLong = send(proxy.url, {
    key,
    json: { model: 'm', messages: [{ role: 'user', content: 'word '.repeat(9000) }] },
  })
  await tooLong.over
  expect(tooLong.status).toBe(429)
  expect(await standing(proxy, key)).toMatchObject({
    requests_per_minute: { used: 0 },
    tokens_per_minute: { used: 0, reserved: 0 },
    tokens_per_day: { used: 0, reserved: 0 },
    total_token_limit: { used: 0, reserved: 0 },
  })
  expect(ofWork(ollama)).toHaveLength(0)
  ollama.otherwise(say('ok'), done())
  const one = send(proxy.url, { key, json: chat })
  await one.over
  expect(one.status).toBe(200)
})

test('what Ollama fails before it works counts as a request and costs no tokens', async () => {
  const { ollama, proxy } = await startSession()
  const limits = limitsOf({ requests_per_minute: 4, tokens_per_minute: 1000 })
  const key = await proxy.createUser('alice', limits)
  const faults = [status(500), status(404, { error: "model 'm' not found" }), status(503), status(400)]
  for (const fault of faults) {
    ollama.next(fault)
    const one = send(proxy.url, { key, json: streamed })
    await one.over
    expect(one.status).toBeGreaterThanOrEqual(400)
    expect(one.status).not.toBe(429)
  }
  expect(await standing(proxy, key)).toMatchObject({
    requests_per_minute: { used: 4 },
    tokens_per_minute: { used: 0, reserved: 0 },
  })
  const one = send(proxy.url, { key, json: chat })
  await one.over
  expect(one.status).toBe(429)
})

test('a client that leaves pays its prompt and what came, and the rest of its promise returns at once', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 600 }))
  ollama.otherwise(...words(20), pause(), ...words(20), done())
  const one = send(proxy.url, { key, json: streamed })
  await proxy.until(() => one.tokens === 20)
  expect((await reservedIn(proxy, key, 'tokens_per_minute')) ?? 0).toBeGreaterThan(400)
  one.leave()
  await proxy.settled()
  const state = (await standing(proxy, key))['tokens_per_minute']
  expect(state?.reserved).toBe(0)
  const [row] = await historyOf(proxy, key)
  expect(row).toMatchObject({ outcome: 'cancelled', basis: 'counted', completion_tokens: 20 })
  expect(state?.used).toBe(Number(row?.['total_tokens']))
})

test('a request that ends for several reasons at once is settled once', async () => {
  const { ollama, proxy } = await startSession()
  const limits = limitsOf({ requests_per_minute: 1000, tokens_per_minute: 1_000_000 })
  const key = await proxy.createUser('alice', limits)
  ollama.otherwise(...words(20), pause(), ...words(5), done())
  const all = Array.from({ length: 60 }, (_, index) =>
    send(proxy.url, { key, json: { ...chat, stream: index % 3 > 0 } }),
  )
  await ollama.reached('', 60)
  // The model ends, and a little sooner or later each client leaves.
  ollama.resume()
  for (let turn = 0; turn < 12; turn++) {
    for (const one of all.slice(turn * 5, turn * 5 + 5)) one.leave()
    await proxy.turns(1)
  }
  await allOver(all)
  await proxy.settled()
  const rows = await proxy.admin('/admin/users/alice/usage/history?limit=100')
  const data = (rows.body as { data: { total_tokens: number }[] }).data
  expect(data).toHaveLength(60)
  expect(await standing(proxy, key)).toMatchObject({
    requests_per_minute: { used: 60 },
    tokens_per_minute: { used: data.reduce((sum, row) => sum + row.total_tokens, 0), reserved: 0 },
  })
})

test('a prompt that Ollama counts higher than was reserved is charged', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 1000 }))
  ollama.next(say('ok'), done({ prompt: 1200 }))
  const one = send(proxy.url, { key, json: chat })
  await one.over
  expect(await usedIn(proxy, key, 'tokens_per_minute')).toBe(1202)
  const next = send(proxy.url, { key, json: chat })
  await next.over
  expect(next.status).toBe(429)
})

test('a model that ignores num_predict, or thinks in a run of its own, delivers no more than was left', async () => {
  const { ollama, proxy } = await startSession()
  const format = { type: 'json_object' }
  const scripts = [
    [unlimited(), ...words(400), done()],
    // Two runs by Ollama, each within num_predict; it reports the second only.
    [unlimited(), ...Array.from({ length: 80 }, () => think('hm ')), ...words(80), done({ completion: 81 })],
  ]
  for (const [index, script] of scripts.entries()) {
    const key = await proxy.createUser(`user-${index}`, limitsOf({ tokens_per_minute: 150 }))
    ollama.next(...script)
    const one = send(proxy.url, {
      key,
      json: { ...streamed, ...(index === 1 && { response_format: format }) },
    })
    await one.over
    expect(one.finishReason).toBe('length')
    expect(one.tokens + PROMPT).toBeLessThanOrEqual(150)
    expect(await usedIn(proxy, key, 'tokens_per_minute')).toBeLessThanOrEqual(150)
  }
})

test('an hour’s jump of the wall clock, forward or back, neither frees a window nor locks anybody out', async () => {
  const { ollama, proxy } = await startSession()
  ollama.otherwise(...words(20), done())
  for (const [index, hours] of [1, -1, -24, 24].entries()) {
    const key = await proxy.createUser(
      `user-${index}`,
      limitsOf({ requests_per_minute: 1, tokens_per_minute: 1000, tokens_per_day: 2000 }),
    )
    const ask = async () => {
      const one = send(proxy.url, { key, json: streamed })
      await one.over
      return one
    }
    expect((await ask()).status).toBe(200)
    proxy.clock.jump(hours * 3_600_000)
    const refused = await ask()
    expect(refused.status).toBe(429)
    expect(refused.headers.get('retry-after-ms')).toBe('60000')
    expect(await standing(proxy, key)).toMatchObject({
      requests_per_minute: { used: 1, resets_at: new Date(proxy.clock.now() + 60_000).toISOString() },
      tokens_per_day: { used: PROMPT + 21 },
    })
    proxy.pass(59_999)
    expect((await ask()).status).toBe(429)
    proxy.pass(1)
    expect((await ask()).status).toBe(200)
  }
})

test('a total set later counts all that was ever used, also what this process has not seen', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.otherwise(...words(99), done())
  const ask = async () => {
    const one = send(proxy.url, { key, json: chat })
    await one.over
    return one.status
  }
  for (let count = 0; count < 3; count++) expect(await ask()).toBe(200)
  // Two days idle: the windows have forgotten the user.
  proxy.pass(2 * 86_400_000)
  for (let count = 0; count < 4; count++) proxy.server.tick()
  expect(await ask()).toBe(200)
  expect(await usedIn(proxy, key, 'total_token_limit')).toBe(4 * (PROMPT + 100))
  await proxy.admin('/admin/users/alice/limits', { method: 'PUT', json: { total_token_limit: 400 } })
  expect(await ask()).toBe(429)
})

test('users idle for longer than a window take no memory', async () => {
  const { ollama, proxy } = await startSession()
  ollama.otherwise(say('ok'), done())
  const keys = await Promise.all(Array.from({ length: 60 }, (_, index) => proxy.createUser(`user-${index}`)))
  await allOver(keys.map(key => send(proxy.url, { key, json: chat })))
  await proxy.settled()
  const numbers = Array.from({ length: 60 }, (_, index) => index + 1)
  const held = () => numbers.filter(number => !proxy.server.windows.needsTotal(number)).length
  expect(held()).toBe(60)
  proxy.pass(86_400_000 * 1.02)
  for (let count = 0; count < 8; count++) proxy.server.tick()
  expect(held()).toBe(0)
})
