import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import type OpenAI from 'openai'
import { ApiError } from '../../src/errors.ts'
import { type PreparedChat, toFitModel, toOllamaChat } from '../../src/wire/chat-request.ts'
import type { OllamaMessage } from '../../src/wire/ollama.ts'
import { parseChatRequest } from '../../src/wire/openai.ts'

type Params = OpenAI.ChatCompletionCreateParams

const base = { model: 'm', messages: [{ role: 'user', content: 'x' }] }
const prepare = (fields: object): PreparedChat => toOllamaChat(parseChatRequest({ ...base, ...fields }))
const translate = (fields: object) => prepare(fields).request
const messagesOf = (...messages: object[]): OllamaMessage[] => translate({ messages }).messages

const faultOf = (run: () => unknown) => {
  try {
    run()
  } catch (error) {
    if (error instanceof ApiError) return error.body.error
    throw error
  }
  throw new Error('not refused')
}

describe('fields', () => {
  test('absent are absent: the model keeps its own defaults', () => {
    expect(translate({})).toEqual({ model: 'm', stream: true, messages: [{ role: 'user', content: 'x' }] })
  })

  test('of sampling become options; zero, false and "" survive', () => {
    const sampling = { temperature: 0, top_p: 0, frequency_penalty: 0, presence_penalty: 0, seed: 0 }
    const extras = {
      top_k: 0,
      min_p: 0,
      repeat_penalty: 0,
      repeat_last_n: -1,
      mirostat: 0,
      penalize_newline: false,
    }
    expect(translate({ ...sampling, ...extras }).options).toEqual({ ...sampling, ...extras })
    expect(translate({ options: { ...sampling, ...extras } }).options).toEqual({ ...sampling, ...extras })
    expect(messagesOf({ role: 'user', content: '' })).toEqual([{ role: 'user', content: '' }])
  })

  test('at the top level win over options', () => {
    const prepared = prepare({ temperature: 0, options: { temperature: 1, top_k: 5 } })
    expect(prepared.request.options).toEqual({ temperature: 0, top_k: 5 })
    expect(prepared.ignored).toEqual(['options.temperature'])
  })

  test('that would go round limits never reach Ollama, and are named', () => {
    const options = {
      num_predict: 9,
      num_ctx: 9,
      num_batch: 9,
      num_gpu: 9,
      main_gpu: 1,
      use_mmap: true,
      num_thread: 9,
      num_keep: 9,
    }
    const fields = {
      keep_alive: -1,
      truncate: false,
      shift: false,
      raw: true,
      template: 'x',
      _debug_render_only: true,
      num_predict: 9,
    }
    const prepared = prepare({ ...fields, options })
    expect(prepared.request).toEqual(translate({}))
    expect(prepared.ignored.sort()).toEqual(
      [...Object.keys(fields), ...Object.keys(options).map(name => `options.${name}`)].sort(),
    )
  })

  test('stop is a list without empty strings', () => {
    expect(translate({ stop: 'a' }).options).toEqual({ stop: ['a'] })
    expect(translate({ stop: ['a', '', 'b', 'c', 'd', 'e'] }).options).toEqual({
      stop: ['a', 'b', 'c', 'd', 'e'],
    })
    expect(translate({ stop: '' })).not.toHaveProperty('options')
  })

  test('max_completion_tokens wins, zero and less are absent', () => {
    const limits: [object, number | null][] = [
      [{}, null],
      [{ max_tokens: 5 }, 5],
      [{ max_tokens: 5, max_completion_tokens: 7 }, 7],
      [{ max_tokens: 5, max_completion_tokens: 0 }, 5],
      [{ max_tokens: -1 }, null],
      [{ max_completion_tokens: 2 ** 63 }, 2 ** 63],
    ]
    for (const [fields, expected] of limits) expect(prepare(fields).maxTokens).toBe(expected)
    expect(prepare({ max_tokens: 5, max_completion_tokens: 7 }).ignored).toEqual(['max_tokens'])
    expect(translate({ max_tokens: 5 })).not.toHaveProperty('options')
  })

  test('response_format becomes format', () => {
    const schema = { type: 'object', properties: { a: { $ref: '#/$defs/a' } }, $defs: { a: { const: 0 } } }
    const named = (json_schema: object) =>
      translate({ response_format: { type: 'json_schema', json_schema } }).format
    expect(translate({ response_format: { type: 'text' } })).not.toHaveProperty('format')
    expect(translate({ response_format: { type: 'json_object' } }).format).toBe('json')
    expect(named({ name: 'x', strict: true, schema })).toEqual(schema)
    expect(named({ name: 'x' })).toBe('json')
    expect(translate({ format: schema }).format).toEqual(schema)
    expect(prepare({ format: 'json', response_format: { type: 'text' } }).ignored).toEqual(['format'])
  })

  test('efforts become think, level by level', () => {
    const levels = {
      none: false,
      minimal: 'low',
      low: 'low',
      medium: 'medium',
      high: 'high',
      xhigh: 'max',
      max: 'max',
    }
    for (const [effort, think] of Object.entries(levels)) {
      expect(translate({ reasoning_effort: effort }).think).toBe(think as never)
      expect(translate({ reasoning: { effort } }).think).toBe(think as never)
    }
    expect(translate({ think: false }).think).toBe(false)
    expect(translate({ think: 'high' }).think).toBe('high')
    expect(translate({ reasoning_effort: '' })).not.toHaveProperty('think')
    const all = prepare({ reasoning_effort: 'low', reasoning: { effort: 'high' }, think: true })
    expect([all.request.think, all.ignored]).toEqual(['low', ['reasoning', 'think']])
  })

  test('logprobs pass', () => {
    expect(translate({ logprobs: true, top_logprobs: 0 })).toMatchObject({ logprobs: true, top_logprobs: 0 })
    expect(translate({ logprobs: false, top_logprobs: 0 })).toEqual(translate({}))
  })

  test('that the proxy itself honours', () => {
    expect(prepare({ n: 3, stream: true, stream_options: { include_usage: true } })).toMatchObject({
      choices: 3,
      stream: true,
      includeUsage: true,
      ignored: [],
    })
    expect(prepare({})).toMatchObject({ choices: 1, stream: false, includeUsage: false, serviceTier: false })
    expect(prepare({ service_tier: 'auto' }).serviceTier).toBe(true)
  })
})

describe('messages', () => {
  test('of every role, one for one', () => {
    expect(
      messagesOf(
        { role: 'system', content: 's' },
        { role: 'developer', content: [{ type: 'text', text: 'd' }] },
        { role: 'user', content: 'u' },
        { role: 'user', content: 'u2' },
        { role: 'assistant', content: 'prefill' },
      ),
    ).toEqual([
      { role: 'system', content: 's' },
      { role: 'system', content: 'd' },
      { role: 'user', content: 'u' },
      { role: 'user', content: 'u2' },
      { role: 'assistant', content: 'prefill' },
    ])
  })

  test('with null, missing or no content are empty', () => {
    for (const role of ['system', 'user', 'assistant'])
      for (const fields of [{}, { content: null }, { content: [] }, { content: '' }])
        expect(messagesOf({ role, ...fields })).toEqual([{ role, content: '' }])
  })

  test('in parts are joined in one message', () => {
    const content = [
      { type: 'text', text: 'a', cache_control: { type: 'ephemeral' } },
      { type: 'input_text', text: '' },
      { type: 'output_text', text: 'b' },
    ]
    expect(messagesOf({ role: 'user', content })).toEqual([{ role: 'user', content: 'a\n\nb' }])
  })

  test('of refusal are text', () => {
    const refusal = { role: 'assistant', content: 'I cannot.' }
    expect(messagesOf({ role: 'assistant', content: null, refusal: 'I cannot.' })).toEqual([refusal])
    expect(messagesOf({ role: 'assistant', content: [{ type: 'refusal', refusal: 'I cannot.' }] })).toEqual([
      refusal,
    ])
  })

  test('keep earlier thinking under any of its names', () => {
    for (const field of ['reasoning_content', 'reasoning', 'thinking'])
      expect(messagesOf({ role: 'assistant', content: 'x', [field]: 'hm' })[0]?.thinking).toBe('hm')
    expect(
      messagesOf({ role: 'assistant', content: 'x', reasoning: {}, reasoning_details: [] })[0],
    ).not.toHaveProperty('thinking')
  })

  test('with what clients replay from answers are taken', () => {
    const replayed = {
      role: 'assistant',
      content: '',
      refusal: null,
      annotations: [],
      audio: null,
      tool_calls: [],
      function_call: null,
      extra_content: {},
    }
    expect(messagesOf(replayed)).toEqual([{ role: 'assistant', content: '' }])
  })

  test('with calls carry objects as arguments, whatever the client made of them', () => {
    const values: [unknown, object][] = [
      ['{"a":0}', { a: 0 }],
      ['', {}],
      [' ', {}],
      [null, {}],
      [undefined, {}],
      [{ a: '' }, { a: '' }],
    ]
    for (const [given, expected] of values) {
      const [message] = messagesOf({
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'c', type: 'function', function: { name: 'f', arguments: given } }],
      })
      expect(message?.tool_calls).toEqual([
        { id: 'c', function: { index: 0, name: 'f', arguments: expected as never } },
      ])
    }
  })

  test('of results get the name of the function called, in any order', () => {
    const call = (id: string, name: string) => ({ id, type: 'function', function: { name, arguments: '{}' } })
    const custom = { id: '3', type: 'custom', custom: { name: 'patch', input: 'p' } }
    const translated = messagesOf(
      { role: 'assistant', tool_calls: [call('1', 'one'), call('2', 'two'), custom] },
      { role: 'tool', tool_call_id: '3', content: 'c' },
      { role: 'tool', tool_call_id: '2', content: [{ type: 'text', text: 'b' }] },
      { role: 'tool', tool_call_id: '1', content: 'a', name: 'wrong' },
      { role: 'tool', tool_call_id: 'lost', content: 'd', name: 'own' },
    )
    expect(translated[0]?.tool_calls?.[2]).toEqual({
      id: '3',
      function: { index: 2, name: 'patch', arguments: { input: 'p' } },
    })
    expect(translated.slice(1)).toEqual([
      { role: 'tool', content: 'c', tool_call_id: '3', tool_name: 'patch' },
      { role: 'tool', content: 'b', tool_call_id: '2', tool_name: 'two' },
      { role: 'tool', content: 'a', tool_call_id: '1', tool_name: 'one' },
      { role: 'tool', content: 'd', tool_call_id: 'lost', tool_name: 'own' },
    ])
  })

  test('of the legacy function form are tool messages', () => {
    expect(
      messagesOf(
        { role: 'assistant', content: null, function_call: { name: 'f', arguments: '{"a":1}' } },
        { role: 'function', name: 'f', content: null },
      ),
    ).toEqual([
      {
        role: 'assistant',
        content: '',
        tool_calls: [{ function: { index: 0, name: 'f', arguments: { a: 1 } } }],
      },
      { role: 'tool', content: '', tool_name: 'f' },
    ])
  })
})

describe('images', () => {
  const png = 'iVBORw0KGgo='
  const withImages = (...urls: unknown[]) => {
    const parts = urls.map(image_url => ({ type: 'image_url', image_url }))
    return prepare({
      messages: [...base.messages, { role: 'user', content: [{ type: 'text', text: 't' }, ...parts] }],
    })
  }
  const imagesOf = (prepared: PreparedChat) => prepared.request.messages[1]?.images

  test('as data URLs become standard base64, however they are spelt', () => {
    const spellings = [
      `data:image/png;base64,${png}`,
      `DATA:IMAGE/PNG;BASE64,${png}`,
      `data:;base64,${png}`,
      `data:image/png;name=a.png;base64,${png}`,
      `data:image/png;base64,${png.slice(0, 4)}\r\n${png.slice(4)}`,
      'data:image/png;base64,iVBORw0KGgo',
    ]
    for (const url of spellings) {
      const prepared = withImages({ url, detail: 'auto' })
      expect(imagesOf(prepared)).toEqual([png])
      expect(prepared.inlineImages).toEqual([
        {
          param: 'messages[1].content[1].image_url',
          messageIndex: 1,
          imageIndex: 0,
          byteLength: 8,
          head: Uint8Array.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
        },
      ])
    }
  })

  test('of any bytes come through any alphabet, padding and line width', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 200 }),
        fc.boolean(),
        fc.boolean(),
        (bytes, url, wrap) => {
          const standard = btoa(String.fromCharCode(...bytes))
          let spelt = url ? standard.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '') : standard
          if (wrap) spelt = spelt.replace(/.{19}/g, '$&\r\n')
          const prepared = withImages(`data:image/png;base64,${spelt}`)
          expect(imagesOf(prepared)).toEqual([standard])
          expect(prepared.inlineImages[0]).toMatchObject({ byteLength: bytes.length, head: bytes })
        },
      ),
    )
  })

  test('as http URLs are left to be fetched, in their places', () => {
    const prepared = withImages(`data:image/png;base64,${png}`, 'https://example.com/a.png', {
      url: 'HTTP://example.com/b.png',
      detail: 'high',
    })
    expect(imagesOf(prepared)).toEqual([png, '', ''])
    expect(prepared.images).toEqual([
      {
        url: 'https://example.com/a.png',
        param: 'messages[1].content[2].image_url',
        messageIndex: 1,
        imageIndex: 1,
      },
      {
        url: 'HTTP://example.com/b.png',
        param: 'messages[1].content[3].image_url',
        messageIndex: 1,
        imageIndex: 2,
      },
    ])
    expect(prepared.uses.images).toBe(true)
    expect(prepared.ignored).toEqual(['image_url.detail'])
  })

  test('are taken in the Responses form and in tool results', () => {
    const prepared = prepare({
      messages: [
        { role: 'user', content: [{ type: 'input_image', image_url: `data:image/png;base64,${png}` }] },
        {
          role: 'tool',
          tool_call_id: '1',
          content: [{ type: 'image_url', image_url: { url: `data:image/png;base64,${png}` } }],
        },
      ],
    })
    expect(prepared.request.messages.map(message => message.images)).toEqual([[png], [png]])
  })
})

describe('tools', () => {
  const define = (name: string) => ({ type: 'function', function: { name, description: `does ${name}` } })
  const tools = ['a', 'b', 'c'].map(define)
  const names = (fields: object) =>
    translate(fields).tools?.map(tool => (tool as { function: { name: string } }).function.name)

  test('have an object of parameters, flattened', () => {
    const parameters = { properties: { x: { oneOf: [{ $ref: '#/$defs/x' }] } }, $defs: { x: { const: 0 } } }
    const [bare, full] = translate({
      tools: [define('a'), { type: 'function', function: { name: 'b', parameters, strict: true, other: 1 } }],
    }).tools as unknown[]
    expect(bare).toEqual({
      type: 'function',
      function: { name: 'a', description: 'does a', parameters: { type: 'object', properties: {} } },
    })
    expect(full).toEqual({
      type: 'function',
      function: { name: 'b', parameters: { type: 'object', properties: { x: { anyOf: [{ enum: [0] }] } } } },
    })
  })

  test('are chosen as far as Ollama can be made to choose', () => {
    const one = (name: string) => ({ type: 'function', function: { name } })
    const allowed = (mode: string) => ({
      type: 'allowed_tools',
      allowed_tools: { mode, tools: [one('c'), one('a')] },
    })
    const choices: [choice: unknown, left: string[] | undefined, ignored: string[]][] = [
      ['auto', ['a', 'b', 'c'], []],
      [null, ['a', 'b', 'c'], []],
      ['none', undefined, []],
      ['required', ['a', 'b', 'c'], ['tool_choice']],
      ['any', ['a', 'b', 'c'], ['tool_choice']],
      [one('b'), ['b'], []],
      [allowed('auto'), ['a', 'c'], []],
      [allowed('required'), ['a', 'c'], ['tool_choice.allowed_tools.mode']],
    ]
    for (const [tool_choice, left, ignored] of choices) {
      expect(names({ tools, tool_choice })).toEqual(left as never)
      expect(prepare({ tools, tool_choice }).ignored).toEqual(ignored)
    }
    expect(prepare({ tools, tool_choice: 'none' }).uses.tools).toBe(false)
  })

  test('as an empty list are none', () => {
    expect(translate({ tools: [] })).toEqual(translate({}))
    expect(translate({ tools: [], tool_choice: 'auto' })).toEqual(translate({}))
  })

  test('of free text are functions of one string', () => {
    const custom = { type: 'custom', custom: { name: 'patch', description: 'd', format: { type: 'text' } } }
    const prepared = prepare({ tools: [custom], tool_choice: { type: 'custom', custom: { name: 'patch' } } })
    expect(prepared.customTools).toEqual(new Set(['patch']))
    expect(prepared.request.tools).toMatchObject([
      { function: { name: 'patch', parameters: { required: ['input'] } } },
    ])
  })

  test('as legacy functions are tools, and are remembered as functions', () => {
    const functions = ['a', 'b'].map(name => ({ name, parameters: { type: 'object', properties: {} } }))
    expect(names({ functions })).toEqual(['a', 'b'])
    expect(names({ functions, function_call: { name: 'b' } })).toEqual(['b'])
    expect(names({ functions, function_call: 'none' })).toBeUndefined()
    expect(prepare({ functions }).legacyFunctions).toBe(true)
    const both = prepare({ functions, function_call: { name: 'b' }, tools })
    expect([both.legacyFunctions, both.ignored]).toEqual([false, ['functions', 'function_call']])
  })

  test('are called one at a time where the client wants it', () => {
    expect(prepare({ tools, parallel_tool_calls: false }).firstToolCallOnly).toBe(true)
    expect(prepare({ tools, parallel_tool_calls: true }).firstToolCallOnly).toBe(false)
    expect(prepare({ parallel_tool_calls: false }).ignored).toEqual([])
  })
})

describe('a model', () => {
  const image = { role: 'user', content: [{ type: 'image_url', image_url: 'https://example.com/a.png' }] }
  const tools = [{ type: 'function', function: { name: 'f' } }]
  const everything = { messages: [image], tools, reasoning_effort: 'high' }

  test('of unknown capabilities is sent everything', () => {
    for (const capabilities of [undefined, []])
      expect(toFitModel(prepare(everything), { capabilities })).toEqual(prepare(everything))
  })

  test('that can do all is sent everything', () => {
    const capabilities = ['completion', 'tools', 'vision', 'thinking']
    expect(toFitModel(prepare(everything), { capabilities })).toEqual(prepare(everything))
  })

  test('without tools is a 400', () => {
    const fault = faultOf(() => toFitModel(prepare({ tools }), { capabilities: ['completion'] }))
    expect(fault).toMatchObject({ param: 'tools', code: 'unsupported_parameter' })
    expect(
      toFitModel(prepare({ tools, tool_choice: 'none' }), { capabilities: ['completion'] }).request,
    ).toEqual(translate({}))
  })

  test('without vision is a 400 that names the image', () => {
    const fault = faultOf(() => toFitModel(prepare({ messages: [image] }), { capabilities: ['completion'] }))
    expect(fault.param).toBe('messages[0].content[0].image_url')
  })

  test('that does not think is not asked to, and the header says so', () => {
    for (const [field, value] of Object.entries({
      reasoning_effort: 'high',
      think: true,
      reasoning: { effort: 'low' },
    })) {
      const fitted = toFitModel(prepare({ [field]: value }), { capabilities: ['completion'] })
      expect(fitted.request).toEqual(translate({}))
      expect(fitted).toMatchObject({ ignored: [field], uses: { thinking: false } })
    }
    const off = toFitModel(prepare({ reasoning_effort: 'none' }), { capabilities: ['completion'] })
    expect([off.request, off.ignored]).toEqual([translate({}), []])
  })
})

describe('any request that the SDK has a type for', () => {
  const text = fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('', '0', '\0', '\ud83d'))
  const optional = <T>(inner: fc.Arbitrary<T>) => fc.option(inner, { nil: null })
  const textPart = fc.record({ type: fc.constant('text' as const), text })
  const content = fc.oneof(text, fc.array(textPart, { maxLength: 3 }))
  const imagePart = fc.record({
    type: fc.constant('image_url' as const),
    image_url: fc.record(
      {
        url: fc.constantFrom('https://example.com/a.png', 'data:image/png;base64,iVBORw0KGgo='),
        detail: fc.constantFrom('auto' as const, 'low' as const, 'high' as const),
      },
      { requiredKeys: ['url'] },
    ),
  })
  const refusalPart = fc.record({ type: fc.constant('refusal' as const), refusal: text })
  const name = fc.stringMatching(/^[A-Za-z0-9_-]{1,64}$/)
  const args = fc.oneof(
    fc.constant(''),
    fc.dictionary(fc.string(), fc.jsonValue()).map(value => JSON.stringify(value)),
  )
  const call = fc.oneof(
    fc.record({
      id: text,
      type: fc.constant('function' as const),
      function: fc.record({ name, arguments: args }),
    }),
    fc.record({ id: text, type: fc.constant('custom' as const), custom: fc.record({ name, input: text }) }),
  )
  const message: fc.Arbitrary<Params['messages'][number]> = fc.oneof(
    fc.record(
      { role: fc.constantFrom('system' as const, 'developer' as const), content, name },
      { requiredKeys: ['role', 'content'] },
    ),
    fc.record(
      {
        role: fc.constant('user' as const),
        content: fc.oneof(text, fc.array(fc.oneof(textPart, imagePart), { maxLength: 3 })),
        name,
      },
      { requiredKeys: ['role', 'content'] },
    ),
    fc.record(
      {
        role: fc.constant('assistant' as const),
        content: optional(fc.oneof(text, fc.array(fc.oneof(textPart, refusalPart), { maxLength: 2 }))),
        refusal: optional(text),
        audio: fc.constant(null),
        tool_calls: fc.array(call, { maxLength: 2 }),
        function_call: optional(fc.record({ name, arguments: args })),
      },
      { requiredKeys: ['role'] },
    ),
    fc.record({ role: fc.constant('tool' as const), tool_call_id: text, content }),
    fc.record({ role: fc.constant('function' as const), name, content: optional(text) }),
  )
  const functionTool = fc.record({
    type: fc.constant('function' as const),
    function: fc.record(
      {
        name,
        description: text,
        parameters: fc.dictionary(fc.string(), fc.jsonValue()),
        strict: optional(fc.boolean()),
      },
      { requiredKeys: ['name'] },
    ),
  })
  const params: fc.Arbitrary<Params> = fc.record(
    {
      model: name,
      messages: fc.array(message, { minLength: 1, maxLength: 4 }),
      temperature: optional(fc.double({ min: 0, max: 2, noNaN: true })),
      top_p: optional(fc.double({ min: 0, max: 1, noNaN: true })),
      frequency_penalty: optional(fc.double({ min: -2, max: 2, noNaN: true })),
      presence_penalty: optional(fc.double({ min: -2, max: 2, noNaN: true })),
      max_tokens: optional(fc.integer()),
      max_completion_tokens: optional(fc.integer()),
      n: optional(fc.integer({ min: 1, max: 128 })),
      stop: optional(fc.oneof(text, fc.array(text, { maxLength: 4 }))),
      seed: optional(fc.maxSafeInteger()),
      logit_bias: optional(fc.dictionary(fc.string(), fc.integer({ min: -100, max: 100 }))),
      logprobs: fc.constant(true),
      top_logprobs: optional(fc.integer({ min: 0, max: 20 })),
      stream: optional(fc.boolean()) as fc.Arbitrary<null>,
      stream_options: optional(fc.record({ include_usage: fc.boolean(), include_obfuscation: fc.boolean() })),
      response_format: fc.oneof(
        fc.constantFrom({ type: 'text' as const }, { type: 'json_object' as const }),
        fc.record({
          type: fc.constant('json_schema' as const),
          json_schema: fc.record(
            { name, schema: fc.dictionary(fc.string(), fc.jsonValue()), strict: optional(fc.boolean()) },
            { requiredKeys: ['name'] },
          ),
        }),
      ),
      tools: fc.array(functionTool, { maxLength: 3 }),
      tool_choice: fc.constantFrom('none' as const, 'auto' as const, 'required' as const),
      parallel_tool_calls: fc.boolean(),
      reasoning_effort: optional(fc.constantFrom('none', 'minimal', 'low', 'medium', 'high', 'xhigh')),
      verbosity: optional(fc.constantFrom('low', 'medium', 'high')),
      modalities: optional(fc.constant(['text' as const])),
      prediction: optional(fc.record({ type: fc.constant('content' as const), content: text })),
      service_tier: optional(fc.constantFrom('auto', 'default', 'flex', 'scale', 'priority')),
      store: optional(fc.boolean()),
      metadata: optional(fc.dictionary(fc.string(), fc.string())),
      user: text,
      safety_identifier: text,
      prompt_cache_key: text,
      prompt_cache_retention: optional(fc.constant('24h')),
      web_search_options: fc.record({ search_context_size: fc.constantFrom('low', 'high') }),
    },
    { requiredKeys: ['model', 'messages', 'logprobs'] },
  ) as fc.Arbitrary<Params>

  const ours = new Set([
    'model',
    'stream',
    'messages',
    'tools',
    'format',
    'think',
    'options',
    'logprobs',
    'top_logprobs',
  ])
  const messageFields = new Set([
    'role',
    'content',
    'thinking',
    'images',
    'tool_calls',
    'tool_name',
    'tool_call_id',
  ])

  test('is translated: nothing thrown, nothing invented, nothing lost', () => {
    fc.assert(
      fc.property(params, sent => {
        const body = JSON.parse(JSON.stringify(sent))
        const { request, ignored, choices, maxTokens } = toOllamaChat(parseChatRequest(body))
        expect(Object.keys(request).every(key => ours.has(key))).toBe(true)
        expect(request.messages).toHaveLength(body.messages.length)
        for (const [index, translated] of request.messages.entries()) {
          expect(Object.keys(translated).every(key => messageFields.has(key))).toBe(true)
          const { content: source, refusal } = body.messages[index]
          if (typeof source === 'string' && !(source === '' && refusal))
            expect(translated.content).toBe(source)
        }
        const { stop: _, ...numbers } = request.options ?? {}
        for (const field of ['temperature', 'top_p', 'frequency_penalty', 'presence_penalty', 'seed'])
          expect(numbers[field] ?? null).toBe(body[field] ?? null)
        expect(Object.keys(numbers).every(key => body[key] !== undefined)).toBe(true)
        expect(choices).toBe(body.n ?? 1)
        expect(maxTokens === null || maxTokens > 0).toBe(true)
        expect(ignored.every(field => /^[A-Za-z0-9_.-]{1,64}$/.test(field))).toBe(true)
        expect(() => JSON.stringify(request)).not.toThrow()
      }),
      { numRuns: 300 },
    )
  })

  test('is translated from a body that it leaves as it was', () => {
    fc.assert(
      fc.property(params, sent => {
        const json = JSON.stringify(sent)
        const body = JSON.parse(json)
        toOllamaChat(parseChatRequest(body))
        expect(JSON.stringify(body)).toBe(json)
      }),
      { numRuns: 50 },
    )
  })
})
