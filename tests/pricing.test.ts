import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { costOf, toAmount, toPerMillion, toTokenPrice } from '../src/pricing.ts'

/** A price as a client writes it: at most six decimals, as text. */
const priceText = fc
  .tuple(fc.integer({ min: 0, max: 999_999 }), fc.integer({ min: 0, max: 999_999 }))
  .map(([whole, micro]) => ({
    text: `${whole}.${String(micro).padStart(6, '0')}`,
    exact: whole * 1_000_000 + micro,
  }))

describe('a price per million tokens', () => {
  test('of up to six decimals is kept exactly, and comes back as it went in', () => {
    fc.assert(
      fc.property(priceText, ({ text, exact }) => {
        expect(toTokenPrice(Number(text))).toBe(exact)
        expect(toPerMillion(exact)).toBe(Number(text))
      }),
    )
  })

  test.each([
    [0, 0],
    [0.1, 100_000],
    [0.000001, 1],
    [1_000_000, 1_000_000_000_000],
    [999_999.999999, 999_999_999_999],
  ])('%p is %p of 10^-12 units a token', (price, exact) => {
    expect(toTokenPrice(price)).toBe(exact)
  })

  test.each([
    [0.0000001, 'too_precise'],
    [0.1234567, 'too_precise'],
    [0.1 + 0.2, 'too_precise'],
    [1_000_000.1, 'too_large'],
    [1e21, 'too_large'],
    [-1, 'negative'],
    [Number.NaN, 'not_a_number'],
    [Number.POSITIVE_INFINITY, 'not_a_number'],
  ])('%p is refused as %p', (price, fault) => {
    expect(toTokenPrice(price)).toBe(fault as never)
  })
})

describe('a cost', () => {
  const tokens = fc.integer({ min: 0, max: 10_000_000 })
  const price = fc.integer({ min: 0, max: 1_000_000_000_000 })

  test('is the exact product, also past 2^53', () => {
    fc.assert(
      fc.property(tokens, tokens, price, price, (prompt, completion, input, output) => {
        const { micro, pico } = costOf(prompt, completion, { input, output })
        expect(pico).toBeGreaterThanOrEqual(0)
        expect(pico).toBeLessThan(1_000_000)
        expect(BigInt(micro) * 1_000_000n + BigInt(pico)).toBe(
          BigInt(prompt) * BigInt(input) + BigInt(completion) * BigInt(output),
        )
      }),
    )
  })

  test('is shown as the decimal it is', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 10n ** 15n }), total => {
        const digits = total.toString().padStart(13, '0')
        const decimal = Number(`${digits.slice(0, -12)}.${digits.slice(-12)}`)
        expect(toAmount(total / 1_000_000n, total % 1_000_000n)).toBe(decimal)
      }),
    )
    expect(toAmount(0, 0)).toBe(0)
    expect(toAmount(300_000, 0)).toBe(0.3)
    expect(toAmount(123_456_789_012_250_000n, 0)).toBe(123_456_789_012.25)
    // A sum of the small parts may pass a million: it carries.
    expect(toAmount(1, 2_500_000)).toBe(0.0000035)
  })
})
