import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { countPrompt, countTokens, imageTokens } from '../../src/simulator/tokens.ts'

/** The rule as a regular expression, against the loop that has to be fast. */
const byPattern = (text: string) => text.match(/[A-Za-z0-9\u0080-\uffff]{1,8}|[\u0021-\u007f]/g)?.length ?? 0

test('a text costs what the documented rule says', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.string({ unit: 'binary' }), fc.lorem()), text => {
      expect(countTokens(text)).toBe(byPattern(text))
    }),
  )
  expect([countTokens(''), countTokens('Hello, world!'), countTokens('internationalization')]).toEqual([
    0, 4, 3,
  ])
})

test('a chat prompt costs its frame, its messages, its images and its tools', () => {
  const user = { role: 'user', content: 'Hello, world!' }
  expect(countPrompt({ messages: [user] })).toBe(7)
  expect(countPrompt({ messages: [user, user] })).toBe(13)
  expect(countPrompt({ messages: [{ ...user, images: ['aGk='] }] })).toBe(7 + imageTokens)
  expect(countPrompt({ messages: [user], tools: [{ a: 1 }] })).toBe(7 + countTokens('[{"a":1}]'))
  expect(countPrompt({ prompt: 'Hello, world!', system: 'Be brief.' })).toBe(1 + 4 + 3)
})
