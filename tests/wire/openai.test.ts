import { describe, expect, test } from 'bun:test'
import { ApiError } from '../../src/errors.ts'
import { toOllamaChat } from '../../src/wire/chat-request.ts'
import { parseChatRequest } from '../../src/wire/openai.ts'

const base = { model: 'm', messages: [{ role: 'user', content: 'x' }] }

/** The error a body is refused with. */
const refusal = (body: unknown) => {
  try {
    toOllamaChat(parseChatRequest(body))
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    expect(error.status).toBe(400)
    expect(error.body.error.type).toBe('invalid_request_error')
    return error.body.error
  }
  throw new Error(`not refused: ${JSON.stringify(body)?.slice(0, 200)}`)
}

const image = (url: unknown) => ({
  ...base,
  messages: [{ role: 'user', content: [{ type: 'image_url', image_url: url }] }],
})
const user = (content: unknown) => ({ ...base, messages: [{ role: 'user', content }] })
const assistant = (fields: object) => ({ ...base, messages: [{ role: 'assistant', ...fields }] })
const calling = (called: unknown) =>
  assistant({ tool_calls: [{ id: 'a', type: 'function', function: called }] })
const tool = { type: 'function', function: { name: 'f' } }
const nested = (depth: number): unknown => JSON.parse(`${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`)

describe('a fault is named by its field and code', () => {
  const faults: [what: string, body: unknown, param: string | null, code: string | null][] = [
    ['no object', [], null, 'invalid_type'],
    ['null', null, null, 'invalid_type'],
    ['text', 'x', null, 'invalid_type'],
    ['nothing', {}, 'model', 'missing_required_parameter'],
    ['no model', { messages: base.messages }, 'model', 'missing_required_parameter'],
    ['a null model', { ...base, model: null }, 'model', 'missing_required_parameter'],
    ['an empty model', { ...base, model: '' }, 'model', 'missing_required_parameter'],
    ['a numeric model', { ...base, model: 5 }, 'model', 'invalid_type'],
    ['a model of 1 MB', { ...base, model: 'm'.repeat(1 << 20) }, 'model', 'invalid_value'],
    ['a model with NUL', { ...base, model: 'm\0' }, 'model', 'invalid_value'],
    ['no messages', { model: 'm' }, 'messages', 'missing_required_parameter'],
    ['messages as text', { ...base, messages: 'hi' }, 'messages', 'invalid_type'],
    ['empty messages', { ...base, messages: [] }, 'messages', 'empty_array'],
    [
      '2049 messages',
      { ...base, messages: Array(2049).fill(base.messages[0]) },
      'messages',
      'array_above_max_length',
    ],
    ['a message that is text', { ...base, messages: ['hi'] }, 'messages[0]', 'invalid_type'],
    ['a message without role', { ...base, messages: [{}] }, 'messages[0].role', 'missing_required_parameter'],
    ['an unknown role', { ...base, messages: [{ role: 'boss' }] }, 'messages[0].role', 'invalid_value'],
    ['numeric content', user(5), 'messages[0].content', 'invalid_type'],
    ['a part that is text', user(['x']), 'messages[0].content[0]', 'invalid_type'],
    [
      'a part without type',
      user([{ text: 'x' }]),
      'messages[0].content[0].type',
      'missing_required_parameter',
    ],
    ['an unknown part', user([{ type: 'video_url' }]), 'messages[0].content[0].type', 'invalid_value'],
    ['audio', user([{ type: 'input_audio' }]), 'messages[0].content[0].type', 'unsupported_value'],
    ['a file', user([{ type: 'file' }]), 'messages[0].content[0].type', 'unsupported_value'],
    [
      'a text part without text',
      user([{ type: 'text' }]),
      'messages[0].content[0].text',
      'missing_required_parameter',
    ],
    ['a numeric text', user([{ type: 'text', text: 5 }]), 'messages[0].content[0].text', 'invalid_type'],
    ['an image without URL', image({}), 'messages[0].content[0].image_url', 'missing_required_parameter'],
    ['a null image', image(null), 'messages[0].content[0].image_url', 'missing_required_parameter'],
    ['a numeric URL', image({ url: 5 }), 'messages[0].content[0].image_url', 'invalid_type'],
    [
      'a file URL',
      image({ url: 'file:///etc/passwd' }),
      'messages[0].content[0].image_url',
      'invalid_image_url',
    ],
    [
      'an http URL of nothing',
      image({ url: 'http://' }),
      'messages[0].content[0].image_url',
      'invalid_image_url',
    ],
    [
      'bad base64',
      image('data:image/png;base64,a*b'),
      'messages[0].content[0].image_url',
      'invalid_base64_image',
    ],
    [
      'cut base64',
      image('data:image/png;base64,aGlhb'),
      'messages[0].content[0].image_url',
      'invalid_base64_image',
    ],
    [
      '= inside base64',
      image('data:image/png;base64,aG=k'),
      'messages[0].content[0].image_url',
      'invalid_base64_image',
    ],
    [
      'no base64 at all',
      image('data:image/svg+xml,<svg/>'),
      'messages[0].content[0].image_url',
      'invalid_base64_image',
    ],
    [
      'an empty image',
      image('data:image/png;base64,'),
      'messages[0].content[0].image_url',
      'empty_image_file',
    ],
    [
      'arguments cut short',
      calling({ name: 'f', arguments: '{"a":' }),
      'messages[0].tool_calls[0].function.arguments',
      'invalid_value',
    ],
    [
      'arguments as a list',
      calling({ name: 'f', arguments: '[]' }),
      'messages[0].tool_calls[0].function.arguments',
      'invalid_value',
    ],
    [
      'numeric arguments',
      calling({ name: 'f', arguments: 5 }),
      'messages[0].tool_calls[0].function.arguments',
      'invalid_type',
    ],
    [
      'deep arguments',
      calling({ name: 'f', arguments: nested(5000) }),
      'messages[0].tool_calls[0].function.arguments',
      'invalid_value',
    ],
    [
      'a call without function',
      calling(null),
      'messages[0].tool_calls[0].function',
      'missing_required_parameter',
    ],
    [
      'a call without name',
      calling({}),
      'messages[0].tool_calls[0].function.name',
      'missing_required_parameter',
    ],
    ['calls as an object', assistant({ tool_calls: {} }), 'messages[0].tool_calls', 'invalid_type'],
    [
      'a result of no call',
      { ...base, messages: [{ role: 'tool', content: '' }] },
      'messages[0].tool_call_id',
      'missing_required_parameter',
    ],
    [
      'a function result without name',
      { ...base, messages: [{ role: 'function' }] },
      'messages[0].name',
      'missing_required_parameter',
    ],
    ['a text temperature', { ...base, temperature: '1' }, 'temperature', 'invalid_type'],
    ['a hot temperature', { ...base, temperature: 2.5 }, 'temperature', 'decimal_above_max_value'],
    ['a cold temperature', { ...base, temperature: -1 }, 'temperature', 'integer_below_min_value'],
    ['a fractional maximum', { ...base, max_tokens: 1.5 }, 'max_tokens', 'invalid_type'],
    ['a text maximum', { ...base, max_completion_tokens: '5' }, 'max_completion_tokens', 'invalid_type'],
    ['no choices', { ...base, n: 0 }, 'n', 'integer_below_min_value'],
    ['129 choices', { ...base, n: 129 }, 'n', 'integer_above_max_value'],
    ['a numeric stop', { ...base, stop: 5 }, 'stop', 'invalid_type'],
    ['a number among stops', { ...base, stop: ['a', 5] }, 'stop[1]', 'invalid_type'],
    ['stream as text', { ...base, stream: 'true' }, 'stream', 'invalid_type'],
    ['stream options as text', { ...base, stream_options: 'x' }, 'stream_options', 'invalid_type'],
    [
      'usage as text',
      { ...base, stream_options: { include_usage: 'yes' } },
      'stream_options.include_usage',
      'invalid_type',
    ],
    ['top_logprobs alone', { ...base, top_logprobs: 2 }, 'top_logprobs', 'invalid_value'],
    [
      '21 top_logprobs',
      { ...base, logprobs: true, top_logprobs: 21 },
      'top_logprobs',
      'integer_above_max_value',
    ],
    ['a format as text', { ...base, response_format: 'json' }, 'response_format', 'invalid_type'],
    [
      'a format without type',
      { ...base, response_format: {} },
      'response_format.type',
      'missing_required_parameter',
    ],
    [
      'an unknown format',
      { ...base, response_format: { type: 'xml' } },
      'response_format.type',
      'invalid_value',
    ],
    [
      'a schema format without schema',
      { ...base, response_format: { type: 'json_schema' } },
      'response_format.json_schema',
      'missing_required_parameter',
    ],
    [
      'a schema as text',
      { ...base, response_format: { type: 'json_schema', json_schema: { name: 'x', schema: 'y' } } },
      'response_format.json_schema.schema',
      'invalid_type',
    ],
    [
      'a deep schema',
      { ...base, response_format: { type: 'json_schema', json_schema: { name: 'x', schema: nested(5000) } } },
      'response_format.json_schema.schema',
      'invalid_value',
    ],
    ['tools as an object', { ...base, tools: {} }, 'tools', 'invalid_type'],
    ['a tool as text', { ...base, tools: ['x'] }, 'tools[0]', 'invalid_type'],
    ['an unknown tool', { ...base, tools: [{ type: 'web_search' }] }, 'tools[0].type', 'invalid_value'],
    [
      'a tool without function',
      { ...base, tools: [{ type: 'function' }] },
      'tools[0].function',
      'missing_required_parameter',
    ],
    [
      'a tool without name',
      { ...base, tools: [{ type: 'function', function: {} }] },
      'tools[0].function.name',
      'missing_required_parameter',
    ],
    [
      'parameters as text',
      { ...base, tools: [{ type: 'function', function: { name: 'f', parameters: 'x' } }] },
      'tools[0].function.parameters',
      'invalid_type',
    ],
    [
      'deep parameters',
      { ...base, tools: [{ type: 'function', function: { name: 'f', parameters: nested(5000) } }] },
      'tools[0].function.parameters',
      'invalid_value',
    ],
    [
      'a grammar tool',
      { ...base, tools: [{ type: 'custom', custom: { name: 'f', format: { type: 'grammar' } } }] },
      'tools[0]',
      'unsupported_value',
    ],
    [
      'a choice of nothing',
      { ...base, tools: [tool], tool_choice: { type: 'function', function: { name: 'g' } } },
      'tool_choice',
      'invalid_value',
    ],
    [
      'an allowed tool that is not there',
      {
        ...base,
        tools: [tool],
        tool_choice: {
          type: 'allowed_tools',
          allowed_tools: { mode: 'auto', tools: [{ type: 'function', function: { name: 'g' } }] },
        },
      },
      'tool_choice',
      'invalid_value',
    ],
    [
      'an unknown choice',
      { ...base, tools: [tool], tool_choice: 'sometimes' },
      'tool_choice',
      'invalid_value',
    ],
    ['a numeric choice', { ...base, tools: [tool], tool_choice: 5 }, 'tool_choice', 'invalid_type'],
    ['an unknown effort', { ...base, reasoning_effort: 'extreme' }, 'reasoning_effort', 'invalid_value'],
    [
      'an unknown nested effort',
      { ...base, reasoning: { effort: 'extreme' } },
      'reasoning.effort',
      'invalid_value',
    ],
    ['a numeric think', { ...base, think: 5 }, 'think', 'invalid_type'],
    ['an unknown think', { ...base, think: 'minimal' }, 'think', 'invalid_value'],
    ['audio out', { ...base, modalities: ['text', 'audio'] }, 'modalities', 'unsupported_value'],
    ['options as a list', { ...base, options: [] }, 'options', 'invalid_type'],
    ['a wrong option', { ...base, options: { top_k: '40' } }, 'options.top_k', 'invalid_type'],
    ['a wrong extra', { ...base, min_p: '0.1' }, 'min_p', 'invalid_type'],
    ['a fractional top_k', { ...base, top_k: 1.5 }, 'top_k', 'invalid_type'],
  ]
  for (const [what, body, param, code] of faults)
    test(what, () => {
      const error = refusal(body)
      expect([error.param, error.code]).toEqual([param, code])
      expect(error.message.length).toBeLessThan(300)
      if (param !== null) expect(error.message).toContain(`'${param}`)
    })

  test('and infinity, which JSON can spell, is no number', () => {
    expect(refusal(JSON.parse('{"model":"m","messages":[{"role":"user"}],"temperature":1e999}')).param).toBe(
      'temperature',
    )
  })

  test('the value itself is not repeated', () => {
    const secret = 'sk-very-secret'
    for (const body of [
      { ...base, stream: secret },
      { ...base, model: `${secret}\0` },
      { ...base, tool_choice: secret },
    ])
      expect(refusal(body).message).not.toContain(secret)
  })
})

const nulls = Object.fromEntries(
  [
    'temperature top_p frequency_penalty presence_penalty max_tokens max_completion_tokens n stop seed logit_bias',
    'stream stream_options user options logprobs top_logprobs response_format tools tool_choice parallel_tool_calls',
    'functions function_call reasoning_effort verbosity modalities audio prediction service_tier store metadata',
    'safety_identifier prompt_cache_key prompt_cache_retention prompt_cache_options moderation web_search_options',
    'reasoning think format top_k min_p keep_alive an_unknown_field',
  ]
    .join(' ')
    .split(' ')
    .map(name => [name, null]),
)

test('null means absent for every optional field', () => {
  const fields = Object.keys(nulls)
  expect(fields.length).toBeGreaterThan(35)
  const prepared = toOllamaChat(parseChatRequest({ ...base, ...nulls }))
  expect(prepared).toEqual(toOllamaChat(parseChatRequest(base)))
  expect(prepared.request).toEqual({ model: 'm', stream: true, messages: [{ role: 'user', content: 'x' }] })
})

test('unknown fields are no fault', () => {
  expect(parseChatRequest({ ...base, extra_body: { a: 1 } }).model).toBe('m')
})

test('names with slashes, colons and dots are models', () => {
  for (const model of ['hf.co/unsloth/Qwen3-GGUF:Q4_K_M', 'llama3.2:1b', 'm'.repeat(256)])
    expect(parseChatRequest({ ...base, model }).model).toBe(model)
})
