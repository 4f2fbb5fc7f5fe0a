import { describe, expect, test } from 'bun:test'
import { ApiError } from '../../src/errors.ts'
import { chatFields } from '../../src/wire/chat-fields.ts'
import { type PreparedChat, toOllamaChat } from '../../src/wire/chat-request.ts'
import { chatRequest, parseChatRequest } from '../../src/wire/openai.ts'

const base = { model: 'm', messages: [{ role: 'user', content: 'x' }] }
const prepare = (fields: object): PreparedChat => toOllamaChat(parseChatRequest({ ...base, ...fields }))
const tools = [
  { type: 'function', function: { name: 'f' } },
  { type: 'function', function: { name: 'g' } },
]
const functions = [{ name: 'f' }, { name: 'g' }]

/** Of each field a request in which it says something, and what else must be there for it to count. */
const samples: Record<string, [fields: object, without?: object]> = {
  model: [{ model: 'other' }],
  messages: [{ messages: [{ role: 'user', content: 'other' }] }],
  temperature: [{ temperature: 0 }],
  top_p: [{ top_p: 0 }],
  frequency_penalty: [{ frequency_penalty: 0 }],
  presence_penalty: [{ presence_penalty: 0 }],
  max_completion_tokens: [{ max_completion_tokens: 5 }],
  max_tokens: [{ max_tokens: 5 }],
  n: [{ n: 2 }],
  stop: [{ stop: 'x' }],
  seed: [{ seed: 0 }],
  logprobs: [{ logprobs: true }],
  top_logprobs: [{ logprobs: true, top_logprobs: 3 }, { logprobs: true }],
  logit_bias: [{ logit_bias: { 50256: -100 } }],
  stream: [{ stream: true }],
  stream_options: [{ stream_options: { include_usage: true } }],
  'stream_options.include_obfuscation': [{ stream_options: { include_obfuscation: true } }],
  response_format: [{ response_format: { type: 'json_object' } }],
  tools: [{ tools }],
  'tools.function.strict': [{ tools: [{ type: 'function', function: { name: 'f', strict: true } }] }],
  tool_choice: [{ tools, tool_choice: 'none' }, { tools }],
  parallel_tool_calls: [{ parallel_tool_calls: false }],
  functions: [{ functions }],
  function_call: [{ functions, function_call: { name: 'f' } }, { functions }],
  reasoning_effort: [{ reasoning_effort: 'high' }],
  verbosity: [{ verbosity: 'low' }],
  modalities: [{ modalities: ['audio'] }],
  audio: [{ audio: { voice: 'x', format: 'wav' } }],
  prediction: [{ prediction: { type: 'content', content: 'x' } }],
  service_tier: [{ service_tier: 'flex' }],
  store: [{ store: true }],
  metadata: [{ metadata: { a: 'b' } }],
  user: [{ user: 'u' }],
  safety_identifier: [{ safety_identifier: 'u' }],
  prompt_cache_key: [{ prompt_cache_key: 'k' }],
  prompt_cache_retention: [{ prompt_cache_retention: '24h' }],
  prompt_cache_options: [{ prompt_cache_options: { ttl: '30m' } }],
  moderation: [{ moderation: { model: 'x' } }],
  web_search_options: [{ web_search_options: { search_context_size: 'low' } }],
  'messages.name': [{ messages: [{ role: 'user', content: 'x', name: 'Ann' }] }],
  'image_url.detail': [
    {
      messages: [
        {
          role: 'user',
          content: [{ type: 'image_url', image_url: { url: 'https://example.com/a', detail: 'high' } }],
        },
      ],
    },
  ],
  reasoning: [{ reasoning: { effort: 'high' } }],
  think: [{ think: true }],
  format: [{ format: 'json' }],
  options: [{ options: { top_k: 0 } }],
  top_k: [{ top_k: 0 }],
  min_p: [{ min_p: 0 }],
  typical_p: [{ typical_p: 0 }],
  repeat_penalty: [{ repeat_penalty: 0 }],
  repeat_last_n: [{ repeat_last_n: 0 }],
  mirostat: [{ mirostat: 0 }],
  mirostat_tau: [{ mirostat_tau: 0 }],
  mirostat_eta: [{ mirostat_eta: 0 }],
  tfs_z: [{ tfs_z: 0 }],
  penalize_newline: [{ penalize_newline: false }],
  keep_alive: [{ keep_alive: 0 }],
  truncate: [{ truncate: false }],
  shift: [{ shift: false }],
  raw: [{ raw: true }],
  template: [{ template: 'x' }],
  _debug_render_only: [{ _debug_render_only: true }],
}
for (const name of ['num_predict', 'num_ctx', 'num_batch', 'num_gpu', 'main_gpu', 'num_thread', 'use_mmap'])
  samples[`options.${name}`] = [{ options: { [name]: 0 } }]

describe('the table of fields', () => {
  test('names each field once, and each has its sample', () => {
    const names = chatFields.map(field => field.name)
    expect(names.length).toBe(new Set(names).size)
    expect(Object.keys(samples).sort()).toEqual([...names].sort())
  })

  test('names every field that the schema knows', () => {
    const names = new Set(chatFields.map(field => field.name))
    expect(Object.keys(chatRequest.shape).filter(name => !names.has(name))).toEqual([])
  })

  for (const { name, treatment } of chatFields)
    test(`${name}: ${treatment}`, () => {
      const [fields, without = {}] = samples[name] ?? [{}]
      const kind = treatment.match(/^[a-z]+/)?.[0] ?? ''
      if (kind === 'refused') {
        expect(() => prepare(fields)).toThrow(ApiError)
        return
      }
      const { ignored, ...prepared } = prepare(fields)
      const { ignored: _, ...plain } = prepare(without)
      if (kind === 'ignored') {
        expect(ignored).toContain(name)
        // The echo of a service tier and an image itself are other things than their ignored part.
        if (!['service_tier', 'image_url.detail', 'tools.function.strict'].includes(name))
          expect(prepared).toEqual(plain)
        return
      }
      expect(ignored).toEqual([])
      expect(prepared).not.toEqual(plain)
      const option = treatment.match(/`options\.(\w+)`/)?.[1]
      if (option === 'num_predict') expect(prepared.maxTokens).toBe(5)
      else if (option !== undefined) expect(prepared.request.options).toHaveProperty(option)
      const field = treatment.match(/^translated to `(\w+)`/)?.[1]
      if (field !== undefined) expect(prepared.request).toHaveProperty(field)
    })
})

describe('x-ignored-parameters', () => {
  test('does not name what asks for nothing', () => {
    const neutral = {
      logit_bias: {},
      metadata: {},
      store: false,
      service_tier: 'auto',
      verbosity: 'medium',
      modalities: ['text'],
      user: '',
      n: 1,
      tools: [],
      functions: [],
      function_call: 'auto',
      stream_options: { include_usage: false, include_obfuscation: false },
      parallel_tool_calls: true,
      reasoning: null,
      unknown: null,
      max_tokens: -1,
    }
    expect(prepare(neutral).ignored).toEqual([])
  })

  test('names unknown fields, in characters fit for a header, and not without end', () => {
    const hostile = { 'a\r\nset-cookie: x': 1, 'ü,': 1, ['k'.repeat(1000)]: 1, __proto__x: 1, constructor: 1 }
    expect(prepare(hostile).ignored).toEqual([
      'a__set-cookie__x',
      '__',
      'k'.repeat(64),
      '__proto__x',
      'constructor',
    ])
    const many = Object.fromEntries(Array.from({ length: 10_000 }, (_, index) => [`field${index}`, 1]))
    expect(prepare(many).ignored).toHaveLength(32)
  })

  test('names a field once', () => {
    const image = { type: 'image_url', image_url: { url: 'https://example.com/a', detail: 'low' } }
    expect(prepare({ messages: [{ role: 'user', content: [image, image, image] }] }).ignored).toEqual([
      'image_url.detail',
    ])
  })
})
