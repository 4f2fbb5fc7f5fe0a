import { expect, setDefaultTimeout, spyOn, test } from 'bun:test'
import { Worker } from 'node:worker_threads'
import type { Wish } from '../../src/runtime/large-bodies.ts'
import { done, pause, say, status } from '../../src/simulator/script.ts'
import { historyOf, limitsOf } from '../support/session.ts'
import { type Json, type Session, startSession } from './support.ts'

// A Worker gives way: beside other work it may take its time.
setDefaultTimeout(60_000)

const LARGE = 300_000
const long = (length: number) => 'Grüße, 世界! "quoted" \\ \u2028 🙂 '.repeat(Math.ceil(length / 28))

const ask = async ({ proxy }: Session, key: string, json: unknown) => {
  const answer = await proxy.call('/v1/chat/completions', { key, json })
  return { status: answer.status, headers: answer.headers, body: (await answer.json()) as Json }
}

/** What Ollama is sent for a request, and for the same one padded past the bound by a field that means nothing. */
const sentTwice = async (session: Session, key: string, json: Record<string, unknown>) => {
  const { ollama } = session
  const bodies: Json[] = []
  for (const padding of ['', ' '.repeat(LARGE)]) {
    ollama.next(say('ok'), done({ prompt: 10, completion: 2 }))
    const { status } = await ask(session, key, { ...json, metadata: { padding } })
    expect(status).toBe(200)
    bodies.push(ollama.generating().at(-1)?.body)
  }
  return bodies
}

const pixel =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

test('a large request reaches Ollama as a small one does, field for field', async () => {
  const session = await startSession({ simulator: { models: ['m'] } })
  const key = await session.proxy.createUser('alice')
  const messages = [
    { role: 'system', content: 'Short.' },
    { role: 'user', content: long(60) },
    { role: 'assistant', content: null, tool_calls: [] },
    { role: 'user', content: [{ type: 'text', text: 'What is it?' }] },
  ]
  const parameters = { type: 'object', properties: { place: { type: 'string' } } }
  const tools = [{ type: 'function', function: { name: 'look', parameters } }]
  for (const json of [
    { model: 'm', messages },
    { model: 'm', messages, temperature: 0, seed: 0, stop: ['x'], max_tokens: 7 },
    { model: 'm', messages, tools },
    { model: 'm', messages, response_format: { type: 'json_object' } },
    { model: 'm', messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: pixel } }] }] },
  ]) {
    const [small, large] = await sentTwice(session, key, json)
    expect(large).toEqual(small)
  }
})

test('a large request keeps the preview that a small one does', async () => {
  const session = await startSession({ settings: { PROMPT_PREVIEW_CHARS: '9' } })
  const key = await session.proxy.createUser('alice')
  const messages = [
    { role: 'user', content: 'not this' },
    { role: 'assistant', content: 'nor this' },
    { role: 'user', content: 'Say hello in a few words.' },
  ]
  await sentTwice(session, key, { model: 'm', messages })
  const previews = (await historyOf(session.proxy, key)).map(row => row['prompt_preview'])
  expect(previews).toEqual(['Say hello', 'Say hello'])
})

test('megabytes of text arrive whole, streamed and plain, and are billed by what Ollama counts', async () => {
  const session = await startSession()
  const { proxy, ollama } = session
  const key = await proxy.createUser('alice')
  const content = long(3_000_000)
  ollama.next(say('ok'), done({ prompt: 700_000, completion: 2 }))
  const plain = await ask(session, key, { model: 'm', messages: [{ role: 'user', content }] })
  expect(plain.body.usage.prompt_tokens).toBe(700_000)
  expect(ollama.generating().at(-1)?.body['messages']).toEqual([{ role: 'user', content }])
  ollama.next(say('a'), say('b'), done({ prompt: 700_000, completion: 3 }))
  const streamed = await proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: [{ role: 'user', content }], stream: true },
  })
  expect(await streamed.text()).toEndWith('data: [DONE]\n\n')
  expect(ollama.generating().at(-1)?.body['messages']).toEqual([{ role: 'user', content }])
  await proxy.settled()
  const rows = await historyOf(proxy, key)
  expect(rows.map(row => row['prompt_tokens'])).toEqual([700_000, 700_000])
})

test('each choice of a large request sends the messages again', async () => {
  const session = await startSession()
  const { proxy, ollama } = session
  const key = await proxy.createUser('alice')
  for (let run = 0; run < 3; run++) ollama.next(say(`run ${run}`), done({ prompt: 5, completion: 2 }))
  const content = long(LARGE)
  const { body } = await ask(session, key, { model: 'm', messages: [{ role: 'user', content }], n: 3 })
  expect(body.choices.length).toBe(3)
  expect(ollama.generating().map(one => one.body['messages'])).toEqual(
    Array.from({ length: 3 }, () => [{ role: 'user', content }]),
  )
})

test('a chunked body of unknown length is taken as well', async () => {
  const session = await startSession()
  const { proxy, ollama } = session
  const key = await proxy.createUser('alice')
  const json = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: long(LARGE) }] })
  for (const text of [json, JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'short' }] })]) {
    const pieces = new TextEncoder().encode(text)
    let offset = 0
    ollama.next(say('ok'), done())
    const answer = await fetch(`${proxy.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: new ReadableStream({
        pull(controller) {
          if (offset >= pieces.length) return controller.close()
          controller.enqueue(pieces.slice(offset, offset + 50_001))
          offset += 50_001
        },
      }),
    })
    expect(answer.status).toBe(200)
    expect(ollama.generating().at(-1)?.body['messages']).toEqual(JSON.parse(text).messages)
  }
})

test('what is wrong with a large request is said as of a small one, and nothing is sent', async () => {
  const session = await startSession()
  const { proxy, ollama } = session
  const key = await proxy.createUser('alice')
  const padded = (json: object) => JSON.stringify({ ...json, metadata: { padding: ' '.repeat(LARGE) } })
  const user = { role: 'user', content: 'Hi' }
  const deep = `{"model":"m","messages":[{"role":"user","content":"\\ud83d\\ude00"}],"metadata":{"a":${'['.repeat(50_000)}${']'.repeat(50_000)}}}`
  for (const [small, large] of [
    [{ model: 'm' }, padded({ model: 'm' })],
    [{ model: 'm', messages: [{ role: 'nobody' }] }, padded({ model: 'm', messages: [{ role: 'nobody' }] })],
    [{ model: 'm', messages: [user], n: 0 }, padded({ model: 'm', messages: [user], n: 0 })],
    ['{"model":', `{"model":${' '.repeat(LARGE)}`],
    ['"\\ud800"', `${' '.repeat(LARGE)}"\\ud800"`],
    [deep, `${' '.repeat(LARGE)}${deep}`],
  ] as const) {
    const answers: Json[] = []
    for (const body of [typeof small === 'string' ? small : JSON.stringify(small), large]) {
      const headers = { 'content-type': 'application/json' }
      const answer = await proxy.call('/v1/chat/completions', { key, method: 'POST', headers, body })
      answers.push([answer.status, await answer.json()])
    }
    expect(answers[1]).toEqual(answers[0])
    expect(answers[0][0]).toBe(400)
  }
  expect(ollama.generating().length).toBe(0)
  const rows = await historyOf(proxy, key)
  expect(rows.length).toBe(0)
})

test('a large request is refused by the limits before a byte of it goes on', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice', limitsOf({ tokens_per_minute: 1000 }))
  const content = long(LARGE)
  const { status, body } = await ask(session, key, { model: 'm', messages: [{ role: 'user', content }] })
  expect([status, body.error.type]).toEqual([429, 'tokens'])
  expect(session.ollama.generating().length).toBe(0)
})

test('Ollama refusing a large request is a real status, and costs nothing', async () => {
  const session = await startSession()
  const { proxy, ollama } = session
  const key = await proxy.createUser('alice')
  ollama.next(status(404, { error: "model 'm' not found" }))
  const content = long(LARGE)
  const answer = await ask(session, key, { model: 'm', messages: [{ role: 'user', content }] })
  expect([answer.status, answer.body.error.code]).toEqual([404, 'model_not_found'])
  const rows = await historyOf(proxy, key)
  expect(rows.map(row => row['total_tokens'])).toEqual([0])
})

test('an image by URL beside megabytes of text is fetched and put in its place', async () => {
  const session = await startSession({ settings: { IMAGE_URL_FETCH: 'off' } })
  const key = await session.proxy.createUser('alice')
  const parts = [
    { type: 'text', text: long(LARGE) },
    { type: 'image_url', image_url: { url: 'http://127.0.0.1:9/a.png' } },
  ]
  const { status, body } = await ask(session, key, {
    model: 'm',
    messages: [{ role: 'user', content: parts }],
  })
  // Fetching is switched off here: that it is refused by name shows that the request came back to be completed.
  expect([status, body.error.param]).toEqual([400, 'messages[0].content[1].image_url'])
})

test('whatever becomes of a large request, nothing of it is kept', async () => {
  const posted = spyOn(Worker.prototype, 'postMessage')
  const session = await startSession()
  const { proxy, ollama } = session
  const key = await proxy.createUser('alice')
  const poor = await proxy.createUser('bob', limitsOf({ tokens_per_minute: 1000 }))
  const json = { model: 'm', messages: [{ role: 'user', content: long(LARGE) }] }

  ollama.next(say('ok'), done())
  await ask(session, key, json)
  expect((await ask(session, poor, json)).status).toBe(429)
  ollama.next(status(404, { error: "model 'm' not found" }))
  expect((await ask(session, key, json)).status).toBe(404)
  ollama.next(say('a'), pause(), say('b'), done())
  const leaving = new AbortController()
  const left = await proxy.call('/v1/chat/completions', {
    key,
    json: { ...json, stream: true },
    signal: leaving.signal,
  })
  await left.body?.getReader().read()
  leaving.abort()
  await proxy.settled()

  const wishes = posted.mock.calls.map(([wish]) => wish as Wish)
  const idsOf = (what: Wish['do']) => new Set(wishes.filter(wish => wish.do === what).map(wish => wish.id))
  expect(idsOf('end').size).toBe(4)
  expect(idsOf('drop')).toEqual(idsOf('end'))
  posted.mockRestore()
})
