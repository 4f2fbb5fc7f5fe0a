import { expect, test } from 'bun:test'
import { done, raw, say, stall, unlimited } from '../../src/simulator/script.ts'
import { hello, historyOf, startSession } from '../support/session.ts'

const tokensAMinute = (tokens: number) => ({
  requests_per_minute: null,
  requests_per_day: null,
  tokens_per_minute: tokens,
  tokens_per_day: null,
  total_token_limit: null,
})

test('a model that does not keep to num_predict, a hundred tokens a line, is cut at the grant all the same', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice', tokensAMinute(300))
  ollama.next(unlimited(), ...Array.from({ length: 30 }, () => say('word '.repeat(100), 100)), done())
  const answer = await proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: hello, stream: true },
  })
  const text = await answer.text()
  expect(text).toContain('"finish_reason":"length"')
  const [row] = await historyOf(proxy, key)
  expect(row?.['total_tokens']).toBeLessThanOrEqual(300)
})

test('what the model said before garbage never reaches the log', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  const line = JSON.stringify({ message: { role: 'assistant', content: 'SECRET-ANSWER' }, done: false })
  ollama.next(raw(`${line}\nno json\n`))
  await (
    await proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello, stream: true } })
  ).text()
  await proxy.settled()
  expect(Bun.inspect(proxy.log, { depth: 9 })).not.toContain('SECRET-ANSWER')
})

test('an upstream body that stays open after its last line is let go', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  const last = JSON.stringify({
    message: { role: 'assistant', content: '' },
    done: true,
    done_reason: 'stop',
    prompt_eval_count: 3,
    eval_count: 1,
  })
  ollama.next(raw(`${last}\n`), stall())
  const answer = await proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello } })
  expect(answer.status).toBe(200)
  proxy.pass(5000)
  expect(await ollama.generating()[0]?.closed).toBe('hung up')
})

test('a user deleted while the images of a request load is told so at once', async () => {
  const images = Bun.serve({ port: 0, fetch: () => new Promise<Response>(() => {}) })
  const { proxy } = await startSession({ settings: { IMAGE_URL_FETCH: 'all' } })
  const key = await proxy.createUser('alice')
  const content = [{ type: 'image_url', image_url: { url: `http://127.0.0.1:${images.port}/a.png` } }]
  const pending = proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: [{ role: 'user', content }] },
  })
  await proxy.until(() => images.pendingRequests === 1)
  await proxy.admin('/admin/users/alice', { method: 'DELETE' })
  expect(await (await pending).json()).toMatchObject({ error: { code: 'user_deleted' } })
  await images.stop(true)
})

test('the images that one request may have fetched are bounded in number and in sum', async () => {
  const png = new Uint8Array(600 * 1024)
  png.set([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, 0x49, 0x48, 0x44, 0x52])
  let served = 0
  const images = Bun.serve({ port: 0, fetch: () => new Response(served++ < 1000 ? png : '') })
  const { ollama, proxy } = await startSession({ settings: { IMAGE_URL_FETCH: 'all', MAX_BODY_MB: '2' } })
  const key = await proxy.createUser('alice')
  const ask = (count: number) => {
    const content = Array.from({ length: count }, (_, index) => ({
      type: 'image_url',
      image_url: { url: `http://127.0.0.1:${images.port}/${index}.png` },
    }))
    return proxy.call('/v1/chat/completions', {
      key,
      json: { model: 'm', messages: [{ role: 'user', content }] },
    })
  }
  const refused = await ask(60)
  expect(refused.status).toBe(400)
  expect(await refused.json()).toMatchObject({ error: { code: 'image_too_large' } })
  expect(served).toBeLessThan(6)
  expect(ollama.generating()).toHaveLength(0)
  expect(await historyOf(proxy, key)).toHaveLength(0)
  await images.stop(true)
})
