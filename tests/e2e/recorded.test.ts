/**
 * Recorded truth: what a real Ollama said, replayed through the proxy. Each answer is read in both framings, from the
 * recorded reads and cut anew, and must say what the recording says: no more, no less, and billed so.
 */
import { describe, expect, test } from 'bun:test'
import { fileURLToPath } from 'node:url'
import type { ModelSpec } from '../../src/simulator/catalogue.ts'
import { isList, isObject } from '../../src/simulator/json.ts'
import { listCases, type Recording, readCase } from '../../src/simulator/replay.ts'
import type { Line } from '../../src/wire/ollama.ts'
import {
  chatCompletion,
  errorBody,
  joinAnswer,
  joinChunks,
  parseEvents,
  readChunks,
} from '../support/contract.ts'
import { hello, historyOf, startSession } from '../support/session.ts'

const root = fileURLToPath(new URL('../fixtures/captures', import.meta.url))

/** The models of the recordings, with their capabilities (see `show-*`). */
const models: ModelSpec[] = [
  { name: 'scripted', capabilities: ['completion', 'tools'], contextLength: 4096 },
  { name: 'thinker', capabilities: ['completion', 'tools', 'thinking'], contextLength: 4096 },
  {
    name: 'plain',
    capabilities: ['completion'],
    contextLength: 4096,
    parameters: 'num_ctx                        512',
  },
  { name: 'infill', capabilities: ['completion', 'insert'] },
  { name: 'harmony', capabilities: ['completion', 'tools', 'thinking'] },
  { name: 'embedder', capabilities: ['embedding'] },
]

const startRecorded = async (settings: Parameters<typeof startSession>[0] = {}) => {
  const { ollama, proxy } = await startSession({ simulator: { models }, ...settings })
  const key = await proxy.createUser('alice')
  return {
    ollama,
    proxy,
    key,
    ask: (json: unknown, path = '/v1/chat/completions') => proxy.call(path, { key, json }),
  }
}

// ---- the oracle: a recording read with nothing of the product's

const textOf = (recording: Recording) => recording.chunks.map(({ text }) => text).join('')

const linesOf = (recording: Recording): Line[] =>
  textOf(recording)
    .split('\n')
    .filter(line => line.trim() !== '')
    .map(line => JSON.parse(line))

const truthOf = (recording: Recording) => {
  const lines = linesOf(recording)
  const messages = lines.map(line => line.message)
  const last = lines.at(-1)
  const calls = messages.flatMap(message => message?.tool_calls ?? [])
  return {
    content: messages.map(message => message?.content ?? '').join(''),
    reasoning: messages.map(message => message?.thinking ?? '').join(''),
    calls: calls.map(call => ({ name: call.function.name, arguments: call.function.arguments as unknown })),
    finish_reason: last?.done_reason === 'length' ? 'length' : calls.length > 0 ? 'tool_calls' : 'stop',
    prompt: last?.prompt_eval_count,
    completion: last?.eval_count ?? 0,
  }
}

// ---- the client that would have caused it

const toClientMessage = (message: unknown): unknown => {
  if (!isObject(message)) return message
  const { role, content, tool_calls: calls, tool_name: name, tool_call_id: id, thinking } = message
  return {
    role: role ?? 'user',
    content,
    ...(isList(calls) && {
      tool_calls: calls.filter(isObject).map(call => {
        const called = isObject(call['function']) ? call['function'] : {}
        return {
          id: call['id'],
          type: 'function',
          function: { name: called['name'], arguments: JSON.stringify(called['arguments']) },
        }
      }),
    }),
    ...(name !== undefined && { name }),
    ...(id !== undefined && { tool_call_id: id }),
    ...(thinking !== undefined && { reasoning_content: thinking }),
  }
}

const toResponseFormat = (format: unknown) =>
  isObject(format)
    ? { type: 'json_schema', json_schema: { name: 'answer', schema: format } }
    : { type: 'json_object' }

/** The chat request of an OpenAI client that makes the proxy ask Ollama for the same. */
const toClientRequest = ({ body }: Recording): Record<string, unknown> => {
  if (!isObject(body) || !isList(body['messages'])) throw new Error('not a chat request')
  const { model, messages, tools, format, think, logprobs, top_logprobs } = body
  const { num_predict, ...sampling } = isObject(body['options']) ? body['options'] : {}
  const { nonsense, ...known } = sampling
  return {
    model,
    messages: messages.map(toClientMessage),
    ...(tools !== undefined && { tools }),
    ...(format !== undefined && format !== null && { response_format: toResponseFormat(format) }),
    ...(think !== undefined && { think }),
    ...(logprobs !== undefined && { logprobs }),
    ...(top_logprobs !== undefined && { top_logprobs }),
    ...(num_predict !== undefined && { max_tokens: num_predict }),
    ...(nonsense !== undefined && { options: { nonsense } }),
    ...known,
  }
}

const steps = (name: string, ...of: string[]) => of.map(step => `${name}/${step}`)

/** Not a client's to cause: fields and settings the proxy never sends, and endings with tests of their own below. */
const elsewhere = new Set([
  ...[
    'chat-debug-render',
    'chat-load',
    'chat-unload',
    'chat-image-unsupported',
    'newengine-chat-image-unsupported',
  ],
  ...[
    'chat-repetition-guard',
    'chat-repetition-guard-stream',
    'chat-think-format',
    'chat-think-format-stream',
  ],
  'chat-field-name-case',
])

const answers = [
  ...listCases(root).filter(name => /^(?:newengine-)?chat-/.test(name) && !elsewhere.has(name)),
  ...steps('chat-cached-prompt', '1-first', '2-same-again', '3-same-beginning', '4-next-turn'),
  ...steps('newengine-chat-cached-prompt', '1-first', '2-same-again', '3-same-beginning', '4-next-turn'),
  ...steps('chat-cold-and-warm-stream', '1-cold', '2-warm'),
  ...steps('chat-keep-alive-sticks', '1-keep-alive-60', '2-unset', '4-keep-alive-300'),
  ...steps('queue-one-slot', '2-waiting'),
]
  .map(name => readCase(root, name))
  .flatMap(found => (found.length === 1 ? found : []))
  .filter(recording => recording.status === 200 && recording.path === '/api/chat')

describe('a recorded answer of a real Ollama is passed on whole, in both framings, and billed as counted there', () => {
  test('there are recordings to pass on', () => {
    expect(answers.length).toBeGreaterThan(80)
  })

  for (const recording of answers) {
    test(recording.name, async () => {
      const { ollama, proxy, key, ask } = await startRecorded()
      const { prompt, completion, ...said } = truthOf(recording)
      const request = toClientRequest(recording)
      if (prompt === undefined) throw new Error('a recording without a prompt count')

      ollama.replay(recording.name)
      const answer = await ask(request)
      expect(answer.status).toBe(200)
      expect(answer.headers.get('content-type')).toBe('application/json')
      const plain = chatCompletion.parse(await answer.json())
      const { tokens, ...whole } = joinAnswer(plain)
      expect(whole).toEqual(said as typeof whole)
      expect(plain.usage).toMatchObject({ prompt_tokens: prompt, completion_tokens: completion })
      expect(plain.model).toBe(String(request['model']))
      expect(tokens.length > 0).toBe(request['logprobs'] === true && said.content !== '')

      for (const [cut, include_usage] of [
        [undefined, true],
        [7, false],
      ] as const) {
        ollama.replay(recording.name, cut === undefined ? {} : { cut })
        const stream = await ask({ ...request, stream: true, stream_options: { include_usage } })
        expect(stream.status).toBe(200)
        expect(stream.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
        const chunks = readChunks(await stream.text(), { usage: include_usage })
        expect(joinChunks(chunks)).toEqual({ tokens, ...whole })
        if (include_usage)
          expect(chunks.at(-1)?.usage).toMatchObject({ prompt_tokens: prompt, completion_tokens: completion })
      }

      const rows = await historyOf(proxy, key)
      expect(rows).toHaveLength(3)
      for (const row of rows)
        expect(row).toMatchObject({
          prompt_tokens: prompt,
          completion_tokens: completion,
          outcome: 'completed',
          basis: 'measured',
        })
      expect(rows.at(-1)?.['id']).toBe(plain.id)
      expect(new Set(ollama.generating().map(({ path }) => path))).toEqual(new Set(['/api/chat']))
    })
  }
})

describe('what is peculiar about a real Ollama', () => {
  const pieces = async (answer: Response, include_usage = true) =>
    readChunks(await answer.text(), { usage: include_usage })
  const streamed = { stream: true, stream_options: { include_usage: true } }

  test('a cached prompt costs what it cost the first time (1)', async () => {
    const { ollama, ask } = await startRecorded()
    const usages: number[] = []
    for (const step of ['1-first', '2-same-again']) {
      ollama.replay(`chat-cached-prompt/${step}`)
      usages.push(
        chatCompletion.parse(await (await ask({ model: 'scripted', messages: hello })).json()).usage
          .prompt_tokens,
      )
    }
    expect(usages).toEqual([439, 439])
  })

  test('thinking is part of completion_tokens, and what of it can be counted is told (3)', async () => {
    const { ollama, ask } = await startRecorded()
    ollama.replay('chat-think-true-stream')
    const chunks = await pieces(
      await ask({ model: 'thinker', messages: hello, reasoning_effort: 'high', ...streamed }),
    )
    const usage = chunks.at(-1)?.usage
    expect(usage?.completion_tokens).toBe(11)
    expect(usage?.completion_tokens_details.reasoning_tokens).toBeWithin(3, 7)
    const order = chunks.flatMap(({ choices }) =>
      choices.map(({ delta }) => (delta.reasoning_content ? 'r' : delta.content ? 'c' : '')),
    )
    expect(order.join('')).toMatch(/^r+c+$/)
  })

  test('format with thinking is two runs of which Ollama reports one: the other is counted by us (4)', async () => {
    const { ollama, proxy, key, ask } = await startRecorded()
    const request = {
      model: 'thinker',
      messages: hello,
      think: true,
      response_format: { type: 'json_object' },
    }
    for (const stream of [{}, streamed]) {
      ollama.replay('chat-think-format-stream')
      const answer = await ask({ ...request, ...stream })
      const [row] = await (async () => {
        const usage =
          'stream' in stream
            ? (await pieces(answer)).at(-1)?.usage
            : chatCompletion.parse(await answer.json()).usage
        expect(usage?.prompt_tokens).toBeGreaterThan(33)
        expect(usage?.completion_tokens).toBeGreaterThan(5)
        const rows = await historyOf(proxy, key)
        expect(rows[0]).toMatchObject({
          prompt_tokens: usage?.prompt_tokens,
          completion_tokens: usage?.completion_tokens,
        })
        return rows
      })()
      expect(row).toMatchObject({ outcome: 'completed', basis: 'counted' })
    }
  })

  test('the repetition guard ends without a done line: a failed row, its tokens counted (5, 16)', async () => {
    const { ollama, proxy, key, ask } = await startRecorded()
    ollama.replay('chat-repetition-guard-stream')
    const stream = await ask({ model: 'scripted', messages: hello, ...streamed })
    expect(stream.status).toBe(200)
    const { events, done } = parseEvents(await stream.text())
    expect(done).toBe(false)
    expect(errorBody.parse(events.at(-1)).error).toMatchObject({
      type: 'server_error',
      code: 'upstream_error',
    })
    expect((await historyOf(proxy, key))[0]).toMatchObject({
      outcome: 'failed',
      basis: 'counted',
      completion_tokens: events.length - 1,
    })

    ollama.replay('chat-repetition-guard-stream')
    const plain = await ask({ model: 'scripted', messages: hello })
    expect(plain.status).toBe(502)
    expect(plain.headers.get('x-should-retry')).toBe('false')
    const [row] = await historyOf(proxy, key)
    expect(row).toMatchObject({ outcome: 'failed', basis: 'counted', completion_tokens: events.length - 1 })
    expect(row?.['prompt_tokens']).toBeGreaterThan(0)
  })

  test('counts that are left out are zeros where nothing was said (6)', async () => {
    const { ollama, proxy, key, ask } = await startRecorded()
    ollama.replay('newengine-chat-overflow-shift-false')
    const answer = chatCompletion.parse(await (await ask({ model: 'plain', messages: hello })).json())
    expect(answer.choices[0]).toMatchObject({ message: { content: '' }, finish_reason: 'length' })
    expect(answer.usage.completion_tokens).toBe(0)
    expect((await historyOf(proxy, key))[0]).toMatchObject({ completion_tokens: 0, basis: 'measured' })
  })

  test('an impossible duration is no time at all (6)', async () => {
    const { ollama, proxy, ask } = await startRecorded()
    ollama.replay('newengine-chat-overflow-shift-false')
    expect((await ask({ model: 'plain', messages: hello })).status).toBe(200)
    const { body } = await proxy.admin('/admin/usage?bucket_width=1d')
    const seconds = (body as { data: { results: { gpu_seconds: number }[] }[] }).data.flatMap(({ results }) =>
      results.map(one => one.gpu_seconds),
    )
    expect(seconds.length).toBeGreaterThan(0)
    for (const one of seconds) expect(one).toBeWithin(0, 60)
  })

  test('an answer of one object to a stream, as after a load, is a good stream (6, 13)', async () => {
    const { ollama, ask } = await startRecorded()
    for (const name of ['chat-load', 'chat-unload']) {
      ollama.replay(name)
      const chunks = await pieces(await ask({ model: 'scripted', messages: hello, ...streamed }))
      expect(joinChunks(chunks)).toMatchObject({ content: '', finish_reason: 'stop' })
    }
  })

  test('the sum for a batch of embeddings is the bill (9)', async () => {
    const { ollama, proxy, key, ask } = await startRecorded()
    ollama.replay('embed-array')
    const answer = (await (
      await ask({ model: 'embedder', input: ['abc', 'd', 'abc'] }, '/v1/embeddings')
    ).json()) as { usage: unknown }
    const count = linesOf(readCase(root, 'embed-array')[0] as Recording)[0]?.prompt_eval_count
    expect(answer.usage).toEqual({ prompt_tokens: count, total_tokens: count })
    expect((await historyOf(proxy, key))[0]).toMatchObject({
      prompt_tokens: count,
      completion_tokens: 0,
      basis: 'measured',
    })
  })

  test('an image that Ollama would drop in silence is refused before it is sent (10)', async () => {
    const { ollama, proxy, key, ask } = await startRecorded()
    const recorded = readCase(root, 'chat-image-unsupported')[0]?.body as { messages: { images: string[] }[] }
    const url = `data:image/png;base64,${recorded.messages[0]?.images[0]}`
    const answer = await ask({
      model: 'scripted',
      messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url } }] }],
    })
    expect(answer.status).toBe(400)
    expect(errorBody.parse(await answer.json()).error.param).toBe('messages[0].content[0].image_url')
    expect(ollama.generating()).toHaveLength(0)
    expect(await historyOf(proxy, key)).toHaveLength(0)
  })

  test('a prompt that Ollama cut is billed as Ollama read it (11)', async () => {
    const { ollama, ask } = await startRecorded()
    for (const [name, prompt] of [
      ['chat-overflow-one-message', 512],
      ['chat-overflow-history', 50],
    ] as const) {
      ollama.replay(name)
      const { usage } = chatCompletion.parse(await (await ask({ model: 'plain', messages: hello })).json())
      expect(usage.prompt_tokens).toBe(prompt)
    }
  })

  test('with TRUNCATION=refuse a prompt that does not fit is a 400 that clients understand (11)', async () => {
    const { ollama, proxy, key, ask } = await startRecorded({ settings: { TRUNCATION: 'refuse' } })
    for (const name of [
      'chat-overflow-truncate-false',
      'newengine-chat-overflow-truncate-false',
      'chat-overflow-truncate-false-stream',
    ]) {
      ollama.replay(name)
      const answer = await ask({ model: 'plain', messages: hello, stream: name.endsWith('stream') })
      expect(answer.status).toBe(400)
      const { error } = errorBody.parse(await answer.json())
      expect(error).toMatchObject({
        type: 'invalid_request_error',
        code: 'context_length_exceeded',
        param: 'messages',
      })
      expect(error.message).toContain('maximum context length')
      expect(ollama.generating().at(-1)?.body['truncate']).toBe(false)
    }
    for (const row of await historyOf(proxy, key))
      expect(row).toMatchObject({ outcome: 'failed', total_tokens: 0 })
  })

  test('without it nothing is said to Ollama about cutting', async () => {
    const { ollama, ask } = await startRecorded()
    ollama.replay('chat-hello')
    await ask({ model: 'scripted', messages: hello, truncate: false, shift: false })
    expect(ollama.generating()[0]?.body).not.toContainKeys(['truncate', 'shift'])
  })

  test('any cut of the reads, at single bytes too, gives the same stream (14)', async () => {
    const { ollama, ask } = await startRecorded()
    const read = async (cut: number | 'bytewise' | undefined) => {
      ollama.replay('chat-utf8-stream', cut === undefined ? {} : { cut })
      const chunks = await pieces(await ask({ model: 'scripted', messages: hello, ...streamed }))
      return chunks.map(({ choices, usage }) => ({ choices, usage }))
    }
    const whole = await read(undefined)
    for (const cut of [1, 3, 64, 100_000, 'bytewise'] as const) expect(await read(cut)).toEqual(whole)
  })

  test('tool calls on the last line are calls like any other (15)', async () => {
    const { ollama, ask } = await startRecorded()
    ollama.replay('chat-harmony-tool-stream')
    const chunks = await pieces(
      await ask({
        ...toClientRequest(readCase(root, 'chat-harmony-tool-stream')[0] as Recording),
        ...streamed,
      }),
    )
    expect(joinChunks(chunks)).toMatchObject({
      calls: [{ name: 'get_weather', arguments: { city: 'Kyiv' } }],
      finish_reason: 'tool_calls',
    })
  })

  test('a killed runner or server in mid-stream is an error chunk, and the tokens are counted (17)', async () => {
    for (const name of [
      'fault-runner-killed-stream/1-killed',
      'fault-server-killed-stream/1-cut',
      'fault-server-stopped-stream/1-cut',
    ]) {
      const { ollama, proxy, key, ask } = await startRecorded()
      const said = textOf(readCase(root, name)[0] as Recording)
        .split('\n')
        .filter(line => /"content":"[^"]/.test(line)).length
      // Paced, or the reset would overtake the lines in the socket.
      ollama.replay(name, { pace: true })
      const { events, done } = parseEvents(
        await (await ask({ model: 'scripted', messages: hello, ...streamed })).text(),
      )
      expect(done).toBe(false)
      expect(errorBody.parse(events.at(-1)).error.code).toBe('upstream_error')
      expect(JSON.stringify(events)).not.toMatch(/EOF|runner|\/api/)
      const [row] = await historyOf(proxy, key)
      expect(row).toMatchObject({ outcome: 'failed', basis: 'counted' })
      expect(row?.['completion_tokens']).toBeWithin(Math.floor(said * 0.9), Math.ceil(said * 1.1) + 1)
    }
  })

  test('with think off, tags of thinking stay in the content, as Ollama left them (18)', async () => {
    const { ollama, ask } = await startRecorded()
    ollama.replay('chat-think-false-stream')
    const chunks = await pieces(
      await ask({ model: 'thinker', messages: hello, reasoning_effort: 'none', ...streamed }),
    )
    expect(ollama.generating()[0]?.body['think']).toBe(false)
    expect(joinChunks(chunks)).toMatchObject({ content: expect.stringContaining('<think>'), reasoning: '' })
  })

  test('a call cut off by the limit, or of a tool not offered, is text (19)', async () => {
    const { ollama, ask } = await startRecorded()
    for (const [name, finish] of [
      ['chat-tool-length-stream', 'length'],
      ['chat-tool-unknown-name-stream', 'stop'],
    ] as const) {
      ollama.replay(name)
      const joined = joinChunks(
        await pieces(await ask({ ...toClientRequest(readCase(root, name)[0] as Recording), ...streamed })),
      )
      expect(joined).toMatchObject({
        calls: [],
        finish_reason: finish,
        content: expect.stringContaining('{'),
      })
    }
  })

  test('bytes of log probabilities are those of the text, though Ollama broke the characters (20)', async () => {
    const { ollama, ask } = await startRecorded()
    const request = { model: 'scripted', messages: hello, logprobs: true, ...streamed }
    ollama.replay('chat-logprobs-utf8-stream')
    const body = await (await ask(request)).text()
    expect(body).not.toMatch(/\u2028/)
    const { content, tokens } = joinChunks(readChunks(body, { usage: true }))
    expect(new TextDecoder().decode(Uint8Array.from(tokens.flatMap(token => token.bytes ?? [])))).toBe(
      content,
    )
  })

  test('a server path of a model made from a file is nowhere in the catalogue (29)', async () => {
    const { ollama, proxy, key } = await startRecorded()
    ollama.replay('tags')
    const text = await (await proxy.call('/v1/models', { key })).text()
    expect(text).toContain('"thinker"')
    expect(text).not.toMatch(/\/models\/|parent_model|sha256/)
  })
})

describe('completions and embeddings say what the recording says', () => {
  const completions = [
    'generate-hello',
    'generate-hello-stream',
    'generate-raw-stream',
    'generate-length',
    'generate-suffix',
    'generate-system',
    'generate-think',
    'generate-think-stream',
  ]
  for (const name of completions) {
    test(name, async () => {
      const { ollama, proxy, key, ask } = await startRecorded()
      const recording = readCase(root, name)[0] as Recording
      const lines = linesOf(recording)
      const last = lines.at(-1)
      const text = lines.map(line => line.response ?? '').join('')
      const body = recording.body as Record<string, unknown>
      const request = {
        model: body['model'],
        prompt: body['prompt'],
        ...(body['suffix'] !== undefined && { suffix: body['suffix'] }),
      }

      ollama.replay(name)
      const plain = (await (await ask(request, '/v1/completions')).json()) as Record<string, unknown>
      const usage = {
        prompt_tokens: last?.prompt_eval_count,
        completion_tokens: last?.eval_count,
        total_tokens: (last?.prompt_eval_count ?? 0) + (last?.eval_count ?? 0),
      }
      expect(plain).toMatchObject({
        object: 'text_completion',
        choices: [{ index: 0, text, finish_reason: last?.done_reason }],
        usage,
      })
      expect(JSON.stringify(plain)).not.toContain('context')

      ollama.replay(name, { cut: 5 })
      const stream = await ask(
        { ...request, stream: true, stream_options: { include_usage: true } },
        '/v1/completions',
      )
      const { events, done } = parseEvents(await stream.text())
      expect(done).toBe(true)
      const chunks = events as {
        choices: { text: string; finish_reason: string | null }[]
        usage?: unknown
      }[]
      expect(chunks.flatMap(({ choices }) => choices.map(choice => choice.text)).join('')).toBe(text)
      expect(
        chunks
          .flatMap(({ choices }) => choices.map(choice => choice.finish_reason))
          .filter(reason => reason !== null),
      ).toEqual([last?.done_reason ?? ''])
      expect(chunks.at(-1)).toMatchObject({ choices: [], usage })
      for (const row of await historyOf(proxy, key))
        expect(row).toMatchObject({
          prompt_tokens: last?.prompt_eval_count,
          completion_tokens: last?.eval_count,
          basis: 'measured',
        })
    })
  }

  for (const name of [
    'embed-string',
    'embed-array',
    'embed-dimensions',
    'embed-dimensions-too-many',
    'embed-overflow',
    'embed-on-chat-model',
  ]) {
    test(name, async () => {
      const { ollama, proxy, key, ask } = await startRecorded()
      const recording = readCase(root, name)[0] as Recording
      const line = linesOf(recording)[0]
      const { model, input, dimensions } = recording.body as Record<string, unknown>
      const request = { model, input, ...(dimensions !== undefined && { dimensions }) }
      ollama.replay(name)
      const floats = (await (await ask(request, '/v1/embeddings')).json()) as {
        data: { index: number; embedding: number[] }[]
        usage: object
      }
      expect(floats.data.map(({ embedding }) => embedding)).toEqual(line?.embeddings ?? [])
      expect(floats.data.map(({ index }) => index)).toEqual(floats.data.map((_, index) => index))
      expect(floats.usage).toEqual({
        prompt_tokens: line?.prompt_eval_count,
        total_tokens: line?.prompt_eval_count,
      })
      ollama.replay(name)
      const packed = (await (
        await ask({ ...request, encoding_format: 'base64' }, '/v1/embeddings')
      ).json()) as { data: { embedding: string }[] }
      const unpacked = packed.data.map(({ embedding }) => [
        ...new Float32Array(Uint8Array.fromBase64(embedding).buffer),
      ])
      expect(unpacked).toEqual((line?.embeddings ?? []).map(vector => [...Float32Array.from(vector)]))
      expect(await historyOf(proxy, key)).toMatchObject(
        Array(2).fill({
          prompt_tokens: line?.prompt_eval_count,
          completion_tokens: 0,
          basis: 'measured',
          outcome: 'completed',
        }),
      )
    })
  }
})

describe('a recorded refusal of Ollama’s becomes an error that SDKs can class, and costs no tokens', () => {
  const chat = { model: 'plain', messages: hello }
  const refusals: [
    name: string,
    path: string,
    request: object,
    status: number,
    code: string | null,
    param: string | null,
  ][] = [
    ['chat-unknown-model', '/v1/chat/completions', chat, 404, 'model_not_found', 'model'],
    ['chat-on-embedding-model', '/v1/chat/completions', chat, 400, 'unsupported_parameter', 'model'],
    ['chat-cloud-model', '/v1/chat/completions', chat, 403, 'model_not_allowed', 'model'],
    ['chat-invalid-model-name', '/v1/chat/completions', chat, 404, 'model_not_found', 'model'],
    [
      'chat-tools-unsupported',
      '/v1/chat/completions',
      { ...chat, model: 'old', tools: [{ type: 'function', function: { name: 'f' } }] },
      400,
      'unsupported_parameter',
      'tools',
    ],
    [
      'chat-think-unsupported',
      '/v1/chat/completions',
      { ...chat, model: 'old', think: true },
      400,
      'unsupported_parameter',
      'reasoning_effort',
    ],
    ['chat-image-bad-base64', '/v1/chat/completions', chat, 400, null, null],
    [
      'chat-format-bad-schema',
      '/v1/chat/completions',
      {
        ...chat,
        response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'nonsense' } } },
      },
      400,
      'invalid_value',
      'response_format',
    ],
    ['unknown-path', '/v1/chat/completions', chat, 502, 'upstream_error', null],
    ['queue-overflow-other-model/4-other-model', '/v1/chat/completions', chat, 503, 'overloaded', null],
    ['fault-runner-killed-no-stream/1-killed', '/v1/chat/completions', chat, 502, 'upstream_error', null],
    [
      'generate-suffix-unsupported',
      '/v1/completions',
      { model: 'old', prompt: 'a', suffix: 'b' },
      400,
      'unsupported_parameter',
      'suffix',
    ],
    [
      'generate-unknown-model',
      '/v1/completions',
      { model: 'm', prompt: 'a' },
      404,
      'model_not_found',
      'model',
    ],
    [
      'generate-on-embedding-model',
      '/v1/completions',
      { model: 'm', prompt: 'a' },
      400,
      'unsupported_parameter',
      'model',
    ],
    ['embed-unknown-model', '/v1/embeddings', { model: 'm', input: 'a' }, 404, 'model_not_found', 'model'],
    [
      'embed-overflow-truncate-false',
      '/v1/embeddings',
      { model: 'm', input: 'a' },
      400,
      'context_length_exceeded',
      'input',
    ],
  ]
  for (const [name, path, request, status, code, param] of refusals) {
    test(name, async () => {
      const { ollama, proxy, key, ask } = await startRecorded()
      const upstreamPath =
        { '/v1/chat/completions': '/api/chat', '/v1/completions': '/api/generate' }[path] ?? '/api/embed'
      const [recorded] = readCase(root, name)
      const body = textOf(recorded as Recording)
      const { status: answer } = await import('../../src/simulator/script.ts')
      for (const stream of path === '/v1/embeddings' ? [false] : [false, true]) {
        ollama.nextAt(upstreamPath, answer(recorded?.status ?? 0, body, recorded?.headers))
        const refusal = await ask({ ...request, ...(stream && { stream }) }, path)
        expect(refusal.status).toBe(status)
        expect(refusal.headers.get('content-type')).toStartWith('application/json')
        const { error } = errorBody.parse(await refusal.json())
        if (code !== null) expect(error).toMatchObject({ code, param })
        expect(error.message).not.toMatch(/registry\.ollama|\/api\/|\/models\/|sha256|EOF|Go struct/)
        if (status === 503) expect(Number(refusal.headers.get('retry-after'))).toBeGreaterThan(0)
        if (status >= 500) expect(refusal.headers.get('x-should-retry')).toBeNull()
      }
      for (const row of await historyOf(proxy, key))
        expect(row).toMatchObject({ outcome: 'failed', total_tokens: 0 })
    })
  }
})
