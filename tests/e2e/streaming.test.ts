import { expect, test } from 'bun:test'
import OpenAI from 'openai'
import {
  done,
  end,
  errorLine,
  garbage,
  pause,
  reset,
  say,
  stall,
  truncate,
} from '../../src/simulator/script.ts'
import { hello, historyOf, startSession } from '../support/session.ts'

const collect = async (stream: AsyncIterable<OpenAI.ChatCompletionChunk>) => {
  const chunks: OpenAI.ChatCompletionChunk[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return { chunks, text: chunks.map(chunk => chunk.choices[0]?.delta.content ?? '').join('') }
}

test('a token reaches the client while Ollama is still speaking', async () => {
  const { ollama, proxy } = await startSession()
  const sdk = proxy.sdk(await proxy.createUser('alice'))
  ollama.next(say('Hel'), pause(), say('lo'), done())
  const stream = await sdk.chat.completions.create({ model: 'm', messages: hello, stream: true })
  const iterator = stream[Symbol.asyncIterator]()
  let text = ''
  while (text === '') text += (await iterator.next()).value.choices[0]?.delta.content ?? ''
  expect(text).toBe('Hel')
  await ollama.reached()
  ollama.resume()
  for (let next = await iterator.next(); next.done !== true; next = await iterator.next())
    text += next.value.choices[0]?.delta.content ?? ''
  expect(text).toBe('Hello')
})

test('a finished stream is in the history when [DONE] has been read, measured by Ollama', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.next(say('Hello'), say(' there'), done({ prompt: 7, completion: 3 }))
  const { chunks } = await collect(
    await proxy.sdk(key).chat.completions.create({
      model: 'm',
      messages: hello,
      stream: true,
      stream_options: { include_usage: true },
    }),
  )
  const usage = chunks.at(-1)?.usage
  const [row] = await historyOf(proxy, key)
  expect(row).toMatchObject({
    id: chunks[0]?.id,
    prompt_tokens: 7,
    completion_tokens: 3,
    outcome: 'completed',
    basis: 'measured',
  })
  expect(usage).toMatchObject({ prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 })
  expect(new Set(chunks.map(chunk => chunk.id)).size).toBe(1)
})

test('a client that hides usage is billed the same', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  for (const stream_options of [{ include_usage: true }, { include_usage: false }, undefined]) {
    ollama.next(say('one'), say('two'), done({ prompt: 5, completion: 3 }))
    await collect(
      await proxy.sdk(key).chat.completions.create({
        model: 'm',
        messages: hello,
        stream: true,
        ...(stream_options && { stream_options }),
      }),
    )
  }
  const rows = await historyOf(proxy, key)
  expect(rows.map(row => row['total_tokens'])).toEqual([8, 8, 8])
})

test('leaving in mid-stream stops Ollama, and the row is written', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.next(say('a'), say('b'), pause(), say('c'), done())
  const controller = new AbortController()
  const stream = await proxy
    .sdk(key)
    .chat.completions.create({ model: 'm', messages: hello, stream: true }, { signal: controller.signal })
  let text = ''
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? ''
    if (text === 'ab') break
  }
  controller.abort()
  const [received] = ollama.generating()
  expect(await received?.closed).toBe('hung up')
  await proxy.settled()
  const [row] = await historyOf(proxy, key)
  expect(row).toMatchObject({ outcome: 'cancelled', basis: 'counted', completion_tokens: 2 })
  expect(row?.['prompt_tokens']).toBeGreaterThan(0)
})

test('leaving before the first token stops Ollama; the prompt is due', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  for (const stream of [true, false]) {
    ollama.next(pause(), say('late'), done())
    const controller = new AbortController()
    const answer = proxy.call('/v1/chat/completions', {
      key,
      json: { model: 'm', messages: hello, stream },
      signal: controller.signal,
    })
    await ollama.reached()
    controller.abort()
    await answer.catch(() => undefined)
    expect(await ollama.generating().at(-1)?.closed).toBe('hung up')
    await proxy.settled()
    const [row] = await historyOf(proxy, key)
    expect(row).toMatchObject({ outcome: 'cancelled', completion_tokens: 0 })
    expect(row?.['prompt_tokens']).toBeGreaterThan(0)
    ollama.resume()
  }
})

/** Reads until `mark` has come, calls `then`, reads the rest. */
const readThen = async (answer: Response, mark: string, then: () => void): Promise<string> => {
  const reader = (answer.body as ReadableStream<Uint8Array<ArrayBuffer>>)
    .pipeThrough(new TextDecoderStream())
    .getReader()
  let text = ''
  let told = false
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    text += part.value
    if (told || !text.includes(mark)) continue
    told = true
    then()
  }
  return text
}

const deaths = {
  reset: reset(),
  truncate: truncate(),
  'an end without done': end(),
  'an error line': errorLine(),
  garbage: garbage(),
}

for (const [name, death] of Object.entries(deaths)) {
  test(`a stream that dies by ${name} raises in the SDK, without [DONE], and is a failed row`, async () => {
    const { ollama, proxy } = await startSession()
    const key = await proxy.createUser('alice')
    ollama.next(say('one'), say('two'), pause(), death)
    const answer = await proxy.call('/v1/chat/completions', {
      key,
      json: { model: 'm', messages: hello, stream: true },
    })
    const text = await readThen(answer, '"two"', ollama.resume)
    expect(answer.status).toBe(200)
    expect(text).toContain('"error":{')
    expect(text).not.toContain('[DONE]')
    expect(text).not.toContain('finish_reason":"')
    expect((await historyOf(proxy, key))[0]).toMatchObject({
      outcome: 'failed',
      basis: 'counted',
      completion_tokens: 2,
    })

    ollama.next(say('one'), say('two'), death)
    const stream = await proxy.sdk(key).chat.completions.create({ model: 'm', messages: hello, stream: true })
    expect(collect(stream)).rejects.toBeInstanceOf(OpenAI.APIError)
  })

  test(`a plain answer whose run dies by ${name} is a 502 that must not be retried, and its tokens are billed`, async () => {
    const { ollama, proxy } = await startSession()
    const key = await proxy.createUser('alice')
    ollama.next(say('one'), say('two'), pause(), death)
    const pending = proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello } })
    await ollama.reached()
    await proxy.turns(30)
    ollama.resume()
    const answer = await pending
    expect(answer.status).toBe(502)
    expect(answer.headers.get('x-should-retry')).toBe('false')
    expect(await answer.json()).toMatchObject({ error: { type: 'server_error', code: 'upstream_error' } })
    expect((await historyOf(proxy, key))[0]).toMatchObject({
      outcome: 'failed',
      basis: 'counted',
      completion_tokens: 2,
    })
  })
}

test('a request that fails before Ollama worked costs no tokens and may be retried', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.next(reset())
  const answer = await proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello } })
  expect(answer.status).toBe(502)
  expect(answer.headers.get('x-should-retry')).toBeNull()
  expect((await historyOf(proxy, key))[0]).toMatchObject({ outcome: 'failed', total_tokens: 0 })
})

test('a stream keeps a real status for eight seconds, then commits to 200 and sends comments', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.next(pause(), say('late'), done())
  const pending = proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: hello, stream: true },
  })
  await ollama.reached()
  proxy.pass(8000)
  const answer = await pending
  expect(answer.status).toBe(200)
  proxy.pass(10_000)
  ollama.resume()
  const text = await answer.text()
  expect(text).toStartWith(': keep-alive\n: keep-alive\ndata: ')
  expect(text).toContain('"content":"late"')
  expect(text).toEndWith('data: [DONE]\n\n')
})

test('an error after the commit is an error chunk with the same code', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.next(pause(), reset())
  const pending = proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: hello, stream: true },
  })
  await ollama.reached()
  proxy.pass(8000)
  const answer = await pending
  ollama.resume()
  const text = await answer.text()
  expect(text).toContain('"code":"upstream_error"')
  expect(text).not.toContain('[DONE]')
})

test('a first byte that never comes is a 504, and Ollama is let go', async () => {
  const { ollama, proxy } = await startSession({ settings: { UPSTREAM_FIRST_BYTE_TIMEOUT_S: '30' } })
  const key = await proxy.createUser('alice')
  ollama.next(stall())
  const pending = proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello } })
  await ollama.arrived()
  await proxy.until(() => proxy.server.inFlight === 1)
  proxy.pass(30_000)
  const answer = await pending
  expect(answer.status).toBe(504)
  expect(await answer.json()).toMatchObject({ error: { code: 'upstream_timeout' } })
  expect(await ollama.generating()[0]?.closed).toBe('hung up')
})

test('silence in mid-stream ends the stream with an error chunk', async () => {
  const { ollama, proxy } = await startSession({ settings: { UPSTREAM_IDLE_TIMEOUT_S: '20' } })
  const key = await proxy.createUser('alice')
  ollama.next(say('one'), stall())
  const answer = await proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: hello, stream: true },
  })
  const text = await readThen(answer, '"one"', () => proxy.pass(20_000))
  expect(text).toContain('"code":"upstream_timeout"')
  expect(await ollama.generating()[0]?.closed).toBe('hung up')
  expect((await historyOf(proxy, key))[0]).toMatchObject({ outcome: 'failed', completion_tokens: 1 })
})

test('a deleted user’s stream ends with user_deleted, and the row is cancelled', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.next(say('one'), stall())
  const answer = await proxy.call('/v1/chat/completions', {
    key,
    json: { model: 'm', messages: hello, stream: true },
  })
  const { status } = await proxy.admin('/admin/users/alice', { method: 'DELETE' })
  expect(status).toBe(200)
  const text = await answer.text()
  expect(text).toContain('"code":"user_deleted"')
  expect(text).not.toContain('[DONE]')
  expect(await ollama.generating()[0]?.closed).toBe('hung up')
})

test('n choices are one request: one row, tokens summed, the usage read equals it', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  for (const text of ['one', 'two', 'three']) ollama.next(say(text), done({ prompt: 4, completion: 2 }))
  const answer = await proxy.sdk(key).chat.completions.create({ model: 'm', messages: hello, n: 3 })
  expect(answer.choices.map(choice => choice.message.content)).toEqual(['one', 'two', 'three'])
  expect(answer.usage).toMatchObject({ prompt_tokens: 12, completion_tokens: 6 })
  const rows = await historyOf(proxy, key)
  expect(rows).toHaveLength(1)
  expect(rows[0]).toMatchObject({ id: answer.id, prompt_tokens: 12, completion_tokens: 6, basis: 'measured' })
})
