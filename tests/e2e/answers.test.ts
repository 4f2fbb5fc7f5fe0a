/** Whatever a model says, both framings say the same, validly, and the bill is what the client reads (issue 6, point 6). */
import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { bytewise, done, type Step, say, think, toolCall } from '../../src/simulator/script.ts'
import { chatCompletion, errorBody, joinAnswer, joinChunks, readChunks } from '../support/contract.ts'
import { hello, historyOf, startSession } from '../support/session.ts'

const start = async (options: Parameters<typeof startSession>[0] = {}) => {
  const session = await startSession(options)
  const key = await session.proxy.createUser('alice')
  return {
    ...session,
    key,
    ask: (json: object) =>
      session.proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello, ...json } }),
  }
}

// ---- any answer

/** Text as models make it, and as nobody expects it. */
const words = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 12 }),
  fc.constantFrom(
    '\u2028',
    '\u2029',
    '\u0085',
    '\0',
    '\r\n',
    '\n\n',
    'data: [DONE]\n\n',
    ': ping',
    '"\\',
    '</script>',
    '🦙',
    '\ufeff',
    ' ',
    '{"error":{}}',
  ),
)
const piece = fc.oneof(
  { weight: 6, arbitrary: words.map(text => ({ kind: 'say' as const, text })) },
  { weight: 2, arbitrary: words.map(text => ({ kind: 'think' as const, text })) },
  {
    weight: 1,
    arbitrary: fc
      .record({
        name: fc.stringMatching(/^[a-z_]{1,12}$/),
        values: fc.dictionary(words, fc.jsonValue({ maxDepth: 2 }), { maxKeys: 3, noNullPrototype: true }),
      })
      .map(call => ({ kind: 'call' as const, ...call })),
  },
)
type Piece = typeof piece extends fc.Arbitrary<infer Value> ? Value : never

const toSteps = (pieces: readonly Piece[]): Step[] => {
  let calls = 0
  return pieces.map(one => {
    if (one.kind === 'say') return say(one.text)
    if (one.kind === 'think') return think(one.text)
    calls++
    return toolCall({ name: one.name, arguments: one.values, id: `call_${calls}`, index: calls - 1 })
  })
}

const textOf = (pieces: readonly Piece[], kind: 'say' | 'think') =>
  pieces.map(one => (one.kind === kind ? one.text : '')).join('')

test('any answer: plain and streamed say what the model said, to the letter, and cost what is billed', async () => {
  const { ollama, proxy, key, ask } = await start()
  const answer = fc.record({
    pieces: fc.array(piece, { maxLength: 12 }),
    reason: fc.constantFrom('stop', 'length'),
    prompt: fc.integer({ min: 1, max: 5000 }),
    more: fc.integer({ min: 1, max: 40 }),
    slowly: fc.boolean(),
  })
  await fc.assert(
    fc.asyncProperty(answer, async ({ pieces, reason, prompt, more, slowly }) => {
      const completion = pieces.length + more
      const script = () =>
        ollama.next(...(slowly ? [bytewise()] : []), ...toSteps(pieces), done({ prompt, completion, reason }))
      const calls = pieces.flatMap(one =>
        one.kind === 'call' ? [{ name: one.name, arguments: JSON.parse(JSON.stringify(one.values)) }] : [],
      )
      const said = {
        content: textOf(pieces, 'say'),
        reasoning: textOf(pieces, 'think'),
        calls,
        tokens: [],
        finish_reason: reason === 'length' ? 'length' : calls.length > 0 ? 'tool_calls' : 'stop',
      }
      script()
      const plain = chatCompletion.parse(await (await ask({})).json())
      expect(joinAnswer(plain)).toEqual(said as ReturnType<typeof joinAnswer>)
      script()
      const chunks = readChunks(
        await (await ask({ stream: true, stream_options: { include_usage: true } })).text(),
        { usage: true },
      )
      expect(joinChunks(chunks)).toEqual(said as ReturnType<typeof joinChunks>)
      const counts = { prompt_tokens: prompt, completion_tokens: completion }
      expect(plain.usage).toMatchObject(counts)
      expect(chunks.at(-1)?.usage).toMatchObject(counts)
      expect((await historyOf(proxy, key)).slice(0, 2)).toMatchObject([
        { id: chunks[0]?.id, ...counts, basis: 'measured' },
        { id: plain.id, ...counts, basis: 'measured' },
      ])
    }),
    { numRuns: 60 },
  )
})

test('a line of 1 MB is one piece, whole', async () => {
  const { ollama, ask } = await start()
  const text = 'Grüße 🦙\u2028"\\\0\r\n'.repeat(60_000)
  for (const stream of [false, true]) {
    ollama.next(say(text), done())
    const answer = await ask({ stream })
    const joined = stream
      ? joinChunks(readChunks(await answer.text(), { usage: false }))
      : joinAnswer(chatCompletion.parse(await answer.json()))
    expect(joined.content === text).toBe(true)
  }
})

// ---- what the model cannot do

describe('what a model lacks is told before Ollama is asked', () => {
  const weather = {
    type: 'function',
    function: { name: 'weather', parameters: { type: 'object', properties: {} } },
  }
  const plain = {
    simulator: { models: [{ name: 'm', capabilities: ['completion' as const], contextLength: 4096 }] },
  }

  test('tools are a 400 that names them', async () => {
    const { ollama, ask } = await start(plain)
    for (const [body, param] of [
      [{ tools: [weather] }, 'tools'],
      [{ functions: [weather.function] }, 'functions'],
    ] as const) {
      const answer = await ask(body)
      expect(answer.status).toBe(400)
      expect(errorBody.parse(await answer.json()).error).toMatchObject({
        code: 'unsupported_parameter',
        param,
      })
    }
    expect(ollama.generating()).toHaveLength(0)
  })

  test('thinking is left out rather than refused, and named', async () => {
    const { ollama, ask } = await start(plain)
    ollama.otherwise(say('ok'))
    for (const body of [{ reasoning_effort: 'high' }, { reasoning: { effort: 'low' } }, { think: true }]) {
      const answer = await ask(body)
      expect(answer.status).toBe(200)
      expect(answer.headers.get('x-ignored-parameters')).toBe(Object.keys(body)[0] ?? '')
      expect(ollama.generating().at(-1)?.body).not.toContainKey('think')
    }
    expect((await ask({ reasoning_effort: 'none' })).headers.get('x-ignored-parameters')).toBeNull()
  })

  test('efforts become Ollama’s levels', async () => {
    const { ollama, ask } = await start({ simulator: { models: [{ name: 'm', behaviour: 'thinker' }] } })
    ollama.otherwise(say('ok'))
    const levels = {
      none: false,
      minimal: 'low',
      low: 'low',
      medium: 'medium',
      high: 'high',
      xhigh: 'max',
      max: 'max',
    }
    for (const [reasoning_effort, think] of Object.entries(levels)) {
      expect((await ask({ reasoning_effort })).status).toBe(200)
      expect(ollama.generating().at(-1)?.body['think']).toBe(think)
    }
    expect((await ask({})).status).toBe(200)
    expect(ollama.generating().at(-1)?.body).not.toContainKey('think')
    expect((await ask({ reasoning_effort: 'enormous' })).status).toBe(400)
  })

  test('a prompt that our estimate finds too long is sent, and the answer says that it was probably cut', async () => {
    const { ollama, ask } = await start(plain)
    ollama.otherwise(say('ok'), done({ prompt: 4096, completion: 2 }))
    const long = await ask({ messages: [{ role: 'user', content: 'many words '.repeat(5000) }] })
    expect(long.status).toBe(200)
    expect(long.headers.get('x-prompt-truncated')).toBe('estimated')
    expect((await ask({})).headers.get('x-prompt-truncated')).toBeNull()
  })

  test('a model that cannot be described now is asked all the same', async () => {
    const { ollama, ask } = await start(plain)
    const { status } = await import('../../src/simulator/script.ts')
    ollama.nextAt('/api/show', status(500))
    ollama.next(say('ok'))
    expect((await ask({ tools: [weather] })).status).toBe(200)
  })
})

describe('what would go round limits never reaches Ollama', () => {
  const privileged = {
    num_predict: 9999,
    num_ctx: 131072,
    num_batch: 1,
    num_gpu: 1,
    main_gpu: 1,
    num_thread: 1,
    use_mmap: false,
  }
  const fields = {
    keep_alive: -1,
    truncate: false,
    shift: false,
    raw: true,
    template: 'x',
    _debug_render_only: true,
    context: [1],
    system: 'x',
  }

  test('at the top level and among the options', async () => {
    const { ollama, ask } = await start()
    ollama.next(say('ok'))
    const answer = await ask({
      ...fields,
      ...privileged,
      options: { ...privileged, top_k: 0, min_p: 0 },
      repeat_penalty: 1.5,
      max_tokens: 7,
    })
    expect(answer.status).toBe(200)
    expect(ollama.generating()[0]?.body).toEqual({
      model: 'm',
      stream: true,
      messages: hello,
      options: { top_k: 0, min_p: 0, repeat_penalty: 1.5, num_predict: 7 },
    })
    const named = answer.headers.get('x-ignored-parameters')?.split(', ')
    for (const name of [
      ...Object.keys(fields),
      ...Object.keys(privileged).flatMap(one => [one, `options.${one}`]),
    ])
      expect(named).toContain(name)
  })

  test('nor in a completion or an embedding', async () => {
    const { ollama, proxy, key } = await start()
    ollama.next(say('ok'))
    await proxy.call('/v1/completions', {
      key,
      json: { model: 'm', prompt: 'x', ...fields, options: privileged },
    })
    expect(ollama.generating()[0]?.body).not.toContainAnyKeys([
      'keep_alive',
      'template',
      'context',
      'system',
      'truncate',
      'raw',
      'options',
    ])
    await proxy.call('/v1/embeddings', {
      key,
      json: { model: 'm', input: 'x', ...fields, options: privileged },
    })
    const embedding = ollama.requests.find(({ path }) => path === '/api/embed')
    expect(embedding?.body).toEqual({ model: 'm', input: ['x'] })
  })
})

test('zero, false and the empty string are meaningful all the way', async () => {
  const { ollama, ask } = await start()
  ollama.next(say('ok'))
  const answer = await ask({
    messages: [
      { role: 'user', content: '' },
      { role: 'assistant', content: '' },
      { role: 'user', content: [{ type: 'text', text: '' }] },
    ],
    temperature: 0,
    top_p: 0,
    seed: 0,
    presence_penalty: 0,
    frequency_penalty: 0,
    top_k: 0,
    penalize_newline: false,
    stream: false,
    logprobs: false,
    user: '',
  })
  expect(answer.status).toBe(200)
  expect(ollama.generating()[0]?.body).toEqual({
    model: 'm',
    stream: true,
    messages: [
      { role: 'user', content: '' },
      { role: 'assistant', content: '' },
      { role: 'user', content: '' },
    ],
    options: {
      temperature: 0,
      top_p: 0,
      seed: 0,
      presence_penalty: 0,
      frequency_penalty: 0,
      top_k: 0,
      penalize_newline: false,
    },
  })
  expect(answer.headers.get('x-ignored-parameters')).toBeNull()
})

test('the model is echoed as the client spells it, the row holds its canonical name', async () => {
  const { ollama, proxy, key, ask } = await start({
    simulator: { models: ['llama3.2', 'hf.co/Org/Name:Q4_K_M'] },
  })
  ollama.otherwise(say('ok'))
  for (const [model, canonical] of [
    ['LLAMA3.2:latest', 'llama3.2'],
    ['registry.ollama.ai/library/llama3.2', 'llama3.2'],
    ['hf.co/Org/Name:Q4_K_M', 'hf.co/org/name:q4_k_m'],
  ] as const) {
    const answer = chatCompletion.parse(await (await ask({ model })).json())
    expect(answer.model).toBe(model)
    expect((await historyOf(proxy, key))[0]).toMatchObject({ model: canonical })
  }
})
