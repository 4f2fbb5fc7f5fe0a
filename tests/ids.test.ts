import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import {
  createIds,
  parseCompletionId,
  parseKeyId,
  startedMs,
  toCompletionId,
  toKeyId,
  toRequestId,
} from '../src/ids.ts'
import { kinds } from '../src/store/ledger.ts'

describe('ids', () => {
  test('the public text of a number leads back to it, for every kind', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.constantFrom(...kinds), (id, kind) => {
        const text = toCompletionId(kind, id)
        expect(text).toMatch(/^(chatcmpl|cmpl|embd)-[0-9a-z]{20}$/)
        expect(parseCompletionId(text)).toBe(id)
      }),
    )
    expect(toRequestId(35)).toBe('req_0000000000000000000z')
    expect(parseKeyId(toKeyId(7))).toBe(7)
  })

  test.each([
    '',
    'chatcmpl-',
    'chatcmpl-1',
    `chatcmpl-${'z'.repeat(20)}`,
    `req_${'0'.repeat(20)}`,
    `chatcmpl-${'0'.repeat(19)}A`,
  ])('a text we never made, %p, is no id', text => {
    expect(parseCompletionId(text)).toBeUndefined()
  })

  test.each(['', 'key_', 'key_0', 'key_-1', 'key_1e3', 'key_01', '1'])('%p is no key id', text => {
    expect(parseKeyId(text)).toBeUndefined()
  })

  test('grow whatever the clock does, and tell the start to the millisecond while it goes on', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 2 ** 42 }), { minLength: 1 }), clock => {
        let nowMs = 0
        const { next } = createIds({ now: () => nowMs, last: 0 })
        let before = 0
        let latest = 0
        for (const reading of clock) {
          nowMs = reading
          const id = next()
          expect(id).toBeGreaterThan(before)
          if (reading > latest) expect(startedMs(id)).toBe(reading)
          latest = Math.max(latest, reading)
          before = id
        }
      }),
    )
  })

  test('go on after the largest one of the past, also when the clock was set back', () => {
    const last = 5_000 * 1024 + 3
    expect(createIds({ now: () => 4_000, last }).next()).toBe(last + 1)
  })
})
