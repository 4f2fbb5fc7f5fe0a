/**
 * What was used stays used over a restart: a process killed with -9 and started again, or a server closed and opened
 * again under a clock moved by hand. After a kill the database is opened here, so that no test waits a real minute.
 */
import { Database } from 'bun:sqlite'
import { afterEach, expect, test } from 'bun:test'
import { join } from 'node:path'
import { done, pause, say } from '../../src/simulator/script.ts'
import { startSimulator } from '../../src/simulator/simulator.ts'
import { allOver, mostInAnyMinute, type Sent, send, withStatus } from '../support/crowd.ts'
import { launch, temporaryFolder } from '../support/process.ts'
import { createClock, startProxy, type TestClock } from '../support/proxy.ts'
import { hello, historyOf, limitsOf } from '../support/session.ts'

type TestProxy = Awaited<ReturnType<typeof startProxy>>

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean()
})

const words = (count: number) => Array.from({ length: count }, (_, index) => say(`w${index} `))
const chat = { model: 'm', messages: hello }
const streamed = { ...chat, stream: true }
/** What the simulated model counts for `hello`. */
const PROMPT = 4
const MINUTE_MS = 60_000

const startOllama = async () => {
  const ollama = await startSimulator({ models: ['m'] })
  cleanups.push(() => ollama.close())
  return ollama
}
const place = () => {
  const { folder, remove } = temporaryFolder()
  cleanups.push(remove)
  return join(folder, 'proxy.db')
}

/** The program as a process of its own. */
const startProcess = async (database: string, ollamaUrl: string) => {
  const { child, url, ended } = launch({ DATABASE_PATH: database, OLLAMA_BASE_URL: ollamaUrl })
  cleanups.push(() => child.kill('SIGKILL'))
  return {
    url: await url(),
    async kill() {
      child.kill('SIGKILL')
      await ended()
    },
  }
}

const createUser = async (url: string, userId: string, limits: Record<string, number>): Promise<string> => {
  const answer = await fetch(`${url}/admin/users`, {
    method: 'POST',
    headers: { authorization: 'Bearer test-admin-key', 'content-type': 'application/json' },
    body: JSON.stringify({ user_id: userId, limits: limitsOf(limits) }),
  })
  return ((await answer.json()) as { api_key: string }).api_key
}

/** The same program here, on that database; `close` ends it as SIGTERM would. */
const open = async (database: string, ollamaUrl: string, clock: TestClock) => {
  const proxy = await startProxy({ ollamaUrl, settings: { DATABASE_PATH: database }, clock })
  let closed: Promise<void> | undefined
  const close = () => {
    closed ??= proxy.stop()
    return closed
  }
  cleanups.push(close)
  return { proxy, close }
}

type State = { used: number; reserved: number }
const usedIn = async (proxy: TestProxy, key: string, name: string) => {
  const answer = await proxy.call('/v1/limits', { key })
  return ((await answer.json()) as { current: Record<string, State> }).current[name]?.used
}

/** Waits for what another process does. */
const until = async (condition: () => boolean) => {
  while (!condition()) await new Promise(resolve => setImmediate(resolve))
}
const burst = (url: string, keys: readonly string[], json: unknown, now?: () => number) =>
  Array.from({ length: 500 }, (_, index) => send(url, { key: keys[index % keys.length] ?? '', json }, now))

test('killed with -9 while ten of five hundred requests are in flight, the next five hundred are refused for their minute', async () => {
  const [ollama, database] = [await startOllama(), place()]
  const first = await startProcess(database, ollama.url)
  const key = await createUser(first.url, 'alice', { requests_per_minute: 10 })
  ollama.otherwise(say('Hel'), pause(), say('lo'), done())
  const before = burst(first.url, [key], streamed)
  await until(() => withStatus(before, 429).length === 490 && before.every(one => one.status > 0))
  await first.kill()
  await allOver(before)
  const second = await startProcess(database, ollama.url)
  const after = burst(second.url, [key], streamed)
  await allOver(after)
  expect(withStatus(after, 429)).toHaveLength(500)
  const refused = after[0]?.headers.get('retry-after-ms') ?? ''
  expect(Number(refused)).toBeGreaterThan(30_000)
  expect(ollama.generating()).toHaveLength(10)
})

test('killed with -9 when some have ended and some run: what is left of the ten is admitted, no more', async () => {
  const [ollama, database] = [await startOllama(), place()]
  const first = await startProcess(database, ollama.url)
  const key = await createUser(first.url, 'alice', { requests_per_minute: 10 })
  ollama.otherwise(say('ok'), done())
  await allOver([send(first.url, { key, json: chat }), send(first.url, { key, json: streamed })])
  ollama.otherwise(say('Hel'), pause(), say('lo'), done())
  const running = [send(first.url, { key, json: chat }), send(first.url, { key, json: streamed })]
  await ollama.reached('', 2)
  await first.kill()
  await allOver(running)
  ollama.otherwise(say('ok'), done())
  const second = await startProcess(database, ollama.url)
  const after = burst(second.url, [key], chat)
  await allOver(after)
  expect(withStatus(after, 200)).toHaveLength(6)
  expect(ollama.generating()).toHaveLength(10)
})

test('killed with -9 early in a burst of five hundred, ten requests at most ever reach Ollama', async () => {
  const [ollama, database] = [await startOllama(), place()]
  const first = await startProcess(database, ollama.url)
  const key = await createUser(first.url, 'alice', { requests_per_minute: 10 })
  ollama.otherwise(say('ok'), done())
  const before = burst(first.url, [key], chat)
  await ollama.arrived(3)
  await first.kill()
  await allOver(before)
  const second = await startProcess(database, ollama.url)
  await allOver(burst(second.url, [key], chat))
  expect(ollama.generating().length).toBeLessThanOrEqual(10)
})

test('five hundred streams, kill -9 in the middle, five hundred more: at most 1,000 tokens in any minute, 95 % usable', async () => {
  const [ollama, database] = [await startOllama(), place()]
  const first = await startProcess(database, ollama.url)
  const teacher = await createUser(first.url, 'teacher', {})
  ollama.otherwise(...words(40), done())
  for (let round = 0; round < 5; round++)
    await allOver(Array.from({ length: 10 }, () => send(first.url, { key: teacher, json: streamed })))
  const key = await createUser(first.url, 'alice', { tokens_per_minute: 1000 })
  ollama.otherwise(...words(20), pause(), ...words(20), done())
  const everything: Sent[] = burst(first.url, [key], streamed, Date.now)
  await until(() => everything.every(one => one.status === 429 || one.tokens === 20))
  expect(withStatus(everything, 200).length).toBeGreaterThan(10)
  await first.kill()
  await allOver(everything)

  const second = await startProcess(database, ollama.url)
  ollama.otherwise(...words(40), done())
  const again = burst(second.url, [key], streamed, Date.now)
  everything.push(...again)
  await allOver(again)
  await second.kill()

  // From here on time is moved by hand: two minutes of a client that asks again whenever it may.
  const clock = createClock(Date.now())
  const { proxy } = await open(database, ollama.url, clock)
  for (let seconds = 0; seconds < 130; seconds++) {
    for (;;) {
      const one = send(proxy.url, { key, json: streamed }, clock.steady)
      everything.push(one)
      await one.over
      if (one.status !== 200) break
    }
    proxy.pass(1000)
  }
  const events = everything.flatMap(one => one.events)
  expect(mostInAnyMinute(events)).toBeLessThanOrEqual(1000)
  const later = events.filter(({ atMs }) => atMs >= clock.steady() - 70_000)
  expect(mostInAnyMinute(later)).toBeGreaterThanOrEqual(950)
}, 20_000)

test('of a request the crash cut off the windows take the last committed grant, the bill and the total the last checkpoint', async () => {
  const [ollama, database] = [await startOllama(), place()]
  const first = await startProcess(database, ollama.url)
  const limits = {
    requests_per_minute: 10,
    tokens_per_minute: 20_000,
    tokens_per_day: 20_000,
    total_token_limit: 20_000,
  }
  const key = await createUser(first.url, 'alice', limits)
  // The last ten are past the first grant of 512: the second is committed before they are delivered.
  ollama.otherwise(...words(505), pause(), ...words(10), pause(), done())
  const cut = send(first.url, { key, json: streamed })
  await until(() => cut.tokens === 505)
  ollama.resume()
  await until(() => cut.tokens === 515)
  const view = await fetch(`${first.url}/v1/limits`, { headers: { authorization: `Bearer ${key}` } })
  const { current } = (await view.json()) as { current: Record<string, State> }
  await first.kill()
  const killedMs = Date.now()
  await cut.over
  const clock = createClock(killedMs + 1000)
  const { proxy, close } = await open(database, ollama.url, clock)
  const [row] = await historyOf(proxy, key)
  expect(row).toMatchObject({ outcome: 'recovered', basis: 'recovered' })
  // At most sixteen may be past the last checkpoint (row.ts).
  const billed = Number(row?.['completion_tokens'])
  expect(billed).toBeGreaterThanOrEqual(515 - 16)
  expect(billed).toBeLessThanOrEqual(515)
  const { used: delivered, reserved } = current['tokens_per_minute'] ?? { used: 0, reserved: 0 }
  const used = await usedIn(proxy, key, 'tokens_per_minute')
  expect(used).toBe(delivered + reserved)
  expect(used).toBeGreaterThanOrEqual(PROMPT + 512 + 256)
  expect(await usedIn(proxy, key, 'tokens_per_day')).toBe(used)
  expect(await usedIn(proxy, key, 'total_token_limit')).toBe(Number(row?.['total_tokens']))
  expect(await usedIn(proxy, key, 'requests_per_minute')).toBe(1)

  // A second restart changes nothing, and the grant leaves a minute after the first.
  await close()
  clock.pass(30_000)
  const again = await open(database, ollama.url, clock)
  expect(await usedIn(again.proxy, key, 'tokens_per_minute')).toBe(used)
  again.proxy.pass(29_999)
  expect(await usedIn(again.proxy, key, 'tokens_per_minute')).toBe(used)
  again.proxy.pass(601)
  expect(await usedIn(again.proxy, key, 'tokens_per_minute')).toBe(0)
  expect(await usedIn(again.proxy, key, 'tokens_per_day')).toBe(used)
  expect(await usedIn(again.proxy, key, 'total_token_limit')).toBe(Number(row?.['total_tokens']))
})

test('a grant that cannot be committed is not delivered', async () => {
  const [ollama, path] = [await startOllama(), place()]
  const { proxy } = await open(path, ollama.url, createClock())
  const key = await proxy.createUser('alice', limitsOf({ tokens_per_minute: 20_000 }))
  const database = new Database(path)
  database.run(
    "create trigger no_grants before update of completion_promised on open_requests begin select raise(abort, 'no'); end",
  )
  database.close()
  ollama.otherwise(...words(700), done())
  for (const json of [streamed, chat]) {
    const one = send(proxy.url, { key, json })
    await one.over
    expect(one.body).toContain('"code":"storage_full"')
    // The first grant, one of it kept back for the end token.
    expect(one.tokens).toBeLessThan(512)
    await proxy.settled()
    const [row] = await historyOf(proxy, key)
    expect(row).toMatchObject({ outcome: 'failed' })
  }
})

test('after a restart a request counts from its admission, its tokens from its end', async () => {
  const [ollama, database, clock] = [await startOllama(), place(), createClock()]
  const first = await open(database, ollama.url, clock)
  const key = await first.proxy.createUser(
    'alice',
    limitsOf({ requests_per_minute: 1, tokens_per_minute: 1000 }),
  )
  ollama.otherwise(...words(30), pause(), ...words(30), done())
  const one = send(first.proxy.url, { key, json: streamed })
  await first.proxy.until(() => one.tokens === 30)
  first.proxy.pass(50_000)
  ollama.resume()
  await one.over
  expect(one.finishReason).toBe('stop')
  await first.close()
  clock.pass(5000)

  const { proxy } = await open(database, ollama.url, clock)
  ollama.otherwise(say('ok'), done())
  const ask = async () => {
    const asked = send(proxy.url, { key, json: chat })
    await asked.over
    return asked
  }
  const refused = await ask()
  expect(refused.status).toBe(429)
  expect(refused.headers.get('retry-after-ms')).toBe('5000')
  proxy.pass(4999)
  expect((await ask()).status).toBe(429)
  // Without the restart the first half would leave now; with it all stays until a minute after the end.
  expect(await usedIn(proxy, key, 'tokens_per_minute')).toBe(PROMPT + 61)
  proxy.pass(1)
  expect((await ask()).status).toBe(200)
  proxy.pass(49_999)
  expect(await usedIn(proxy, key, 'tokens_per_minute')).toBe(PROMPT + 61 + PROMPT + 2)
  proxy.pass(601)
  expect(await usedIn(proxy, key, 'tokens_per_minute')).toBe(PROMPT + 2)
})

test('a failed request and a client that left count over a restart too', async () => {
  const [ollama, database, clock] = [await startOllama(), place(), createClock()]
  const first = await open(database, ollama.url, clock)
  const key = await first.proxy.createUser(
    'alice',
    limitsOf({ requests_per_minute: 3, tokens_per_day: 5000 }),
  )
  ollama.next({ kind: 'reset' })
  await send(first.proxy.url, { key, json: chat }).over
  ollama.next(...words(20), pause(), done())
  const left = send(first.proxy.url, { key, json: streamed })
  await first.proxy.until(() => left.tokens === 20)
  left.leave()
  await first.proxy.settled()
  const used = await usedIn(first.proxy, key, 'tokens_per_day')
  await first.close()
  const { proxy } = await open(database, ollama.url, clock)
  expect(await usedIn(proxy, key, 'requests_per_minute')).toBe(2)
  expect(await usedIn(proxy, key, 'tokens_per_day')).toBe(used)
  ollama.otherwise(say('ok'), done())
  const all = burst(proxy.url, [key], chat)
  await allOver(all)
  expect(withStatus(all, 200)).toHaveLength(1)
})

for (const hours of [-1, 1]) {
  test(`a wall clock ${hours === 1 ? 'put forward an hour and back' : 'put back an hour'} around a restart frees nothing and locks nobody out for good`, async () => {
    const [ollama, database] = [await startOllama(), place()]
    const before = createClock()
    if (hours === 1) before.jump(3_600_000)
    const first = await open(database, ollama.url, before)
    const key = await first.proxy.createUser(
      'alice',
      limitsOf({ requests_per_minute: 1, tokens_per_day: 300 }),
    )
    ollama.otherwise(...words(40), done())
    const ask = async (proxy: TestProxy) => {
      const one = send(proxy.url, { key, json: { ...chat, max_tokens: 50 } })
      await one.over
      return one
    }
    expect((await ask(first.proxy)).status).toBe(200)
    await first.close()
    // The rows lie an hour in the future now.
    const after = createClock(before.now() - 3_600_000)
    const second = await open(database, ollama.url, after)
    const refused = await ask(second.proxy)
    expect(refused.status).toBe(429)
    expect(refused.headers.get('retry-after-ms')).toBe('60000')
    expect(await usedIn(second.proxy, key, 'tokens_per_day')).toBe(PROMPT + 41)
    second.proxy.pass(MINUTE_MS)
    expect((await ask(second.proxy)).status).toBe(200)
    // Once more over a restart: what came under the new clock counts as well.
    await second.close()
    const third = await open(database, ollama.url, after)
    expect((await ask(third.proxy)).status).toBe(429)
    expect(await usedIn(third.proxy, key, 'tokens_per_day')).toBe(2 * (PROMPT + 41))
    third.proxy.pass(26 * 60 * MINUTE_MS)
    expect(await usedIn(third.proxy, key, 'tokens_per_day')).toBe(0)
    expect((await ask(third.proxy)).status).toBe(200)
  })
}

test('what was learnt of a model holds after a restart: as many streams are admitted as before', async () => {
  const [ollama, database, clock] = [await startOllama(), place(), createClock()]
  const first = await open(database, ollama.url, clock)
  const teacher = await first.proxy.createUser('teacher')
  ollama.otherwise(...words(40), done())
  for (let round = 0; round < 5; round++)
    await allOver(Array.from({ length: 10 }, () => send(first.proxy.url, { key: teacher, json: streamed })))
  const admitted = async (proxy: TestProxy) => {
    const key = await proxy.createUser(`user-${clock.now()}`, limitsOf({ tokens_per_minute: 1000 }))
    ollama.otherwise(pause(), ...words(40), done())
    const all = burst(proxy.url, [key], streamed)
    await until(() => withStatus(all, 429).length > 400)
    await ollama.reached('', 500 - withStatus(all, 429).length)
    ollama.resume()
    await allOver(all)
    return withStatus(all, 200).length
  }
  const before = await admitted(first.proxy)
  expect(before).toBeGreaterThan(10)
  await first.close()
  clock.pass(1000)
  const second = await open(database, ollama.url, clock)
  expect(Math.abs((await admitted(second.proxy)) - before)).toBeLessThanOrEqual(1)
})
