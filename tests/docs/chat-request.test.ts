/**
 * The documentation's table of chat fields is the code's, and both are true: each row is tried with a value.
 * After a change of `chatFields`, `UPDATE_DOCS=1 bun test tests/docs` writes the table anew.
 */
import { describe, expect, test } from 'bun:test'
import { ApiError } from '../../src/errors.ts'
import { chatFields } from '../../src/wire/chat-fields.ts'
import { toFitModel, toOllamaChat } from '../../src/wire/chat-request.ts'
import { chatRequest, parseChatRequest } from '../../src/wire/openai.ts'

const page = new URL('../../docs/chat-request.md', import.meta.url)

const table = [
  '| field | what happens to it |',
  '| --- | --- |',
  ...chatFields.map(({ name, treatment }) => `| \`${name}\` | ${treatment} |`),
].join('\n')

test('the table in docs/chat-request.md is the one in the code', async () => {
  const file = Bun.file(page)
  const text = await file.text()
  const written = text.replace(/^\| field .*\n(?:\|.*\n)*/m, () => `${table}\n`)
  if (process.env['UPDATE_DOCS'] === '1') await Bun.write(page, written)
  else expect(text).toBe(written)
  expect(written).toContain(table)
})

test('each field stands in it once, and no field of the request schema is missing', () => {
  const names = chatFields.map(({ name }) => name)
  expect(new Set(names).size).toBe(names.length)
  expect(Object.keys(chatRequest.shape).filter(name => !names.includes(name))).toEqual([])
})

// ---- every row, tried

const tool = (name: string) => ({
  type: 'function',
  function: { name, parameters: { type: 'object', properties: {} } },
})
const base = { model: 'm', messages: [{ role: 'user', content: 'x' }] }

type Sample = {
  /** What is added to a plain request. */
  body: object
  /** For fields that matter only beside others: the request to compare with. */
  beside?: object
}

const samples: Record<string, Sample> = {
  model: { body: { model: 'other' } },
  messages: { body: { messages: [{ role: 'user', content: 'y' }] } },
  temperature: { body: { temperature: 0 } },
  top_p: { body: { top_p: 0 } },
  frequency_penalty: { body: { frequency_penalty: 0 } },
  presence_penalty: { body: { presence_penalty: 0 } },
  max_completion_tokens: { body: { max_completion_tokens: 5 } },
  max_tokens: { body: { max_tokens: 5 } },
  n: { body: { n: 2 } },
  stop: { body: { stop: 'x' } },
  seed: { body: { seed: 0 } },
  logprobs: { body: { logprobs: true } },
  top_logprobs: { body: { top_logprobs: 2 }, beside: { logprobs: true } },
  logit_bias: { body: { logit_bias: { 1: 2 } } },
  stream: { body: { stream: true } },
  stream_options: { body: { stream_options: { include_usage: true } }, beside: { stream: true } },
  'stream_options.include_obfuscation': {
    body: { stream_options: { include_obfuscation: true } },
    beside: { stream: true },
  },
  response_format: { body: { response_format: { type: 'json_object' } } },
  tools: { body: { tools: [tool('f')] } },
  'tools.function.strict': {
    body: { tools: [{ type: 'function', function: { ...tool('f').function, strict: true } }] },
    beside: { tools: [tool('f')] },
  },
  tool_choice: { body: { tool_choice: 'none' }, beside: { tools: [tool('f')] } },
  parallel_tool_calls: { body: { parallel_tool_calls: false }, beside: { tools: [tool('f')] } },
  functions: { body: { functions: [{ name: 'f' }] } },
  function_call: { body: { function_call: 'none' }, beside: { functions: [{ name: 'f' }] } },
  reasoning_effort: { body: { reasoning_effort: 'low' } },
  verbosity: { body: { verbosity: 'low' } },
  modalities: { body: { modalities: ['audio'] } },
  audio: { body: { audio: { voice: 'x', format: 'mp3' } } },
  prediction: { body: { prediction: { type: 'content', content: 'x' } } },
  service_tier: { body: { service_tier: 'auto' } },
  store: { body: { store: true } },
  metadata: { body: { metadata: { a: 'b' } } },
  user: { body: { user: 'u' } },
  safety_identifier: { body: { safety_identifier: 's' } },
  prompt_cache_key: { body: { prompt_cache_key: 'k' } },
  prompt_cache_retention: { body: { prompt_cache_retention: '24h' } },
  prompt_cache_options: { body: { prompt_cache_options: { mode: 'implicit' } } },
  moderation: { body: { moderation: { model: 'x' } } },
  web_search_options: { body: { web_search_options: { search_context_size: 'low' } } },
  'messages.name': { body: { messages: [{ role: 'user', content: 'x', name: 'bob' }] } },
  'image_url.detail': {
    body: {
      messages: [
        {
          role: 'user',
          content: [{ type: 'image_url', image_url: { url: 'data:;base64,AAAA', detail: 'high' } }],
        },
      ],
    },
    beside: {
      messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:;base64,AAAA' } }] }],
    },
  },
  reasoning: { body: { reasoning: { effort: 'low' } } },
  think: { body: { think: false } },
  format: { body: { format: 'json' } },
  options: { body: { options: { top_k: 0 } } },
  penalize_newline: { body: { penalize_newline: false } },
}

/** `options.num_ctx` as it stands in a body; other fields take a zero. */
const sampleOf = (name: string): Sample => {
  const known = samples[name]
  if (known !== undefined) return known
  const [parent, child] = name.split('.')
  return { body: child === undefined ? { [name]: 0 } : { [String(parent)]: { [child]: 0 } } }
}

const prepare = (body: object) => {
  const { ignored, ...effect } = toOllamaChat(parseChatRequest({ ...base, ...body }))
  return {
    ignored,
    effect: JSON.stringify(effect, (_, value) => (value instanceof Set ? [...value] : value)),
  }
}

describe('what the table says of a field is what happens', () => {
  for (const { name, treatment } of chatFields) {
    test(`${name}: ${treatment}`, () => {
      const { body, beside = {} } = sampleOf(name)
      const without = prepare(beside)
      const [word] = treatment.split(/[ :;]/)
      if (word === 'refused') {
        expect(() => prepare({ ...beside, ...body })).toThrow(ApiError)
        return
      }
      const withField = prepare({ ...beside, ...body })
      if (word === 'ignored' && !treatment.includes('answer says')) {
        expect(withField.effect).toBe(without.effect)
        expect(withField.ignored).toContain(name)
        return
      }
      expect(word).toBeOneOf(['translated', 'honoured', 'ignored'])
      expect(withField.effect).not.toBe(without.effect)
      if (word !== 'ignored') expect(withField.ignored).not.toContain(name)
      const field = /^translated to `(\w+)\.?(\w+)?`/.exec(treatment)
      const request = JSON.parse(withField.effect).request as Record<string, Record<string, unknown>>
      if (field?.[2] === 'num_predict') expect(JSON.parse(withField.effect).maxTokens).toBe(5)
      else if (field?.[2] !== undefined) expect(request[field[1] ?? '']).toContainKey(field[2])
      else if (field !== null) expect(Object.keys(request)).toContain(field[1] ?? '')
    })
  }

  test('a field nobody knows is ignored, and named', () => {
    expect(prepare({ nonsense: 1 }).ignored).toEqual(['nonsense'])
    expect(prepare({ nonsense: 1 }).effect).toBe(prepare({}).effect)
  })

  test('reasoning_effort is ignored, and named, for a model that does not think', () => {
    const { request, ignored } = toFitModel(
      toOllamaChat(parseChatRequest({ ...base, reasoning_effort: 'high' })),
      { capabilities: ['completion'] },
    )
    expect(request).not.toContainKey('think')
    expect(ignored).toContain('reasoning_effort')
  })
})
