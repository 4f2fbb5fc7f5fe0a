import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { ApiError } from '../../src/errors.ts'
import { completionRequest, parseCompletionRequest } from '../../src/wire/completions.ts'
import { embeddingRequest, parseEmbeddingRequest } from '../../src/wire/embeddings.ts'
import { toInvalidRequest } from '../../src/wire/invalid-request.ts'
import { chatRequest, parseChatRequest } from '../../src/wire/openai.ts'

const dialects = {
  chat: { schema: chatRequest, parse: parseChatRequest },
  completion: { schema: completionRequest, parse: parseCompletionRequest },
  embedding: { schema: embeddingRequest, parse: parseEmbeddingRequest },
}

const right: Record<string, unknown> = {
  model: 'm',
  messages: [{ role: 'user', content: 'x' }],
  prompt: 'x',
  input: 'x',
  temperature: 1,
  max_tokens: 5,
  n: 2,
  stop: ['x'],
  stream: true,
  stream_options: { include_usage: true },
  seed: 7,
}

for (const [name, { schema, parse }] of Object.entries(dialects)) {
  const fields = [...Object.keys(schema.shape), 'unknown', '__proto__', 'constructor', 'toString']
  const value = fc.oneof(
    fc.constantFrom(null, true, false, 0, 1, -1, 0.5, 3, 2 ** 63, '', 'm', 'm\0', 'float'),
    fc.constantFrom([], ['x'], [1], {}, { include_usage: 1 }, { include_usage: true }),
    fc.constant('m'.repeat(300)),
  )
  const body = fc
    .array(fc.tuple(fc.constantFrom(...fields), value, fc.boolean()), { maxLength: 6 })
    .map(entries =>
      Object.fromEntries([
        ['model', 'm'],
        ['messages', right['messages']],
        ...entries.map(([field, odd, isOdd]) => [field, isOdd ? odd : (right[field] ?? odd)]),
      ]),
    )
    // As it comes over the wire: what JSON can say, `__proto__` a field like others.
    .map(fields => JSON.parse(JSON.stringify(fields)))

  const outcome = (act: () => unknown): unknown => {
    try {
      return { body: act() }
    } catch (error) {
      if (!(error instanceof ApiError)) throw error
      return { fault: error.body }
    }
  }

  test(`a ${name} body is taken and refused by its fields as by the whole schema`, () => {
    fc.assert(
      fc.property(fc.oneof({ weight: 9, arbitrary: body }, { weight: 1, arbitrary: value }), given => {
        const whole = schema.safeParse(given)
        const plainly = outcome(() => {
          if (!whole.success) throw toInvalidRequest(whole.error, given)
          return whole.data
        })
        expect(outcome(() => parse(given))).toEqual(plainly)
      }),
      { numRuns: 2000 },
    )
  })
}
