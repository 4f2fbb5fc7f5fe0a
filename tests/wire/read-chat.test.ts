import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { toOllamaChat } from '../../src/wire/chat-request.ts'
import { parseChatRequest } from '../../src/wire/openai.ts'
import { readPlainChat } from '../../src/wire/read-chat.ts'

const hello = [{ role: 'user', content: 'Hello' }]
const plain: Record<string, fc.Arbitrary<unknown>> = {
  stream: fc.boolean(),
  stream_options: fc.boolean().map(include_usage => ({ include_usage })),
  temperature: fc.double({ min: 0, max: 2, noNaN: true }),
  top_p: fc.double({ min: 0, max: 1, noNaN: true }),
  seed: fc.oneof(fc.integer(), fc.constant(2 ** 63)),
}
/** One of the two: both are never read at a glance. */
const cap = fc
  .tuple(fc.constantFrom('max_tokens', 'max_completion_tokens'), fc.integer())
  .map(pair => Object.fromEntries([pair]))
const message = fc.record({
  role: fc.constantFrom('user', 'assistant', 'system'),
  content: fc.string({ unit: 'grapheme' }),
})
const odd = fc.oneof(
  fc.constantFrom(null, true, 0, -1, 0.5, 1.5, 2.5, Number.NaN, Number.POSITIVE_INFINITY, '', 'x', 'm\0'),
  fc.constantFrom([], {}, ['x'], [null], { include_usage: 1 }, { include_usage: true, x: 1 }),
  fc.constantFrom({ include_usage: null }, { include_obfuscation: true }, 'm'.repeat(257)),
  fc.constantFrom(
    [{ role: 'user', content: 'x', name: 'a' }],
    [{ role: 'tool', content: 'x' }],
    [{ role: 'developer', content: 'x' }],
    [{ role: 'user', content: [{ type: 'text', text: 'x' }] }],
    [{ role: 'assistant', content: null }],
    [{ content: 'x' }],
    [{ role: 'toString', content: 'x' }],
    Array.from({ length: 2049 }, () => hello[0]),
  ),
)
const names = [
  ...Object.keys(plain),
  'max_tokens',
  'max_completion_tokens',
  'model',
  'messages',
  'n',
  'stop',
  'tools',
  'user',
  'x',
]

const body = fc
  .tuple(
    fc.record({
      model: fc.constantFrom('m', 'llama3.2:1b', 'hf.co/org/name:Q4_K_M'),
      messages: fc.array(message, { minLength: 1, maxLength: 4 }),
    }),
    fc.record(plain, { requiredKeys: [] }),
    fc.oneof(fc.constant({}), cap),
    fc.oneof(
      { weight: 2, arbitrary: fc.constant({}) },
      {
        weight: 1,
        arbitrary: fc.tuple(fc.constantFrom(...names), odd).map(pair => Object.fromEntries([pair])),
      },
    ),
  )
  .map(parts => Object.assign({}, ...parts))

test('what is read at a glance is read as by the schema and the whole translation', () => {
  let read = 0
  fc.assert(
    fc.property(fc.oneof({ weight: 20, arbitrary: body }, { weight: 1, arbitrary: odd }), given => {
      const glance = readPlainChat(given)
      if (glance === undefined) return
      read++
      expect(glance).toEqual(toOllamaChat(parseChatRequest(given)))
    }),
    { numRuns: 5000 },
  )
  expect(read).toBeGreaterThan(2000)
})

test('the usual request is read at a glance, and nothing is that needs more than that', () => {
  const usual = {
    model: 'm',
    messages: hello,
    stream: true,
    stream_options: { include_usage: true },
    seed: 1,
  }
  expect(readPlainChat(usual)).toBeDefined()
  const unusual = [
    { ...usual, temperature: null },
    { ...usual, max_tokens: 5, max_completion_tokens: 6 },
    { ...usual, tools: [] },
    { ...usual, messages: [{ role: 'tool', content: 'x' }] },
    { ...usual, messages: [{ role: 'developer', content: 'x' }] },
    { ...usual, messages: [JSON.parse('{ "role": "user", "content": "x", "__proto__": "y" }')] },
    { ...usual, temperature: 2.1 },
    { ...usual, top_p: 1.1 },
    { ...usual, messages: [{ role: 'user', content: 'x', images: ['aGk='] }] },
    { ...usual, messages: Array.from({ length: 2049 }, () => hello[0]) },
    { ...usual, stream_options: { include_usage: true, include_obfuscation: true } },
    { messages: hello },
    { model: 'm' },
    'x',
    null,
  ]
  for (const given of unusual) expect(readPlainChat(given)).toBeUndefined()
})
