import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { createRunningQuantile } from '../../src/limits/quantile.ts'

test('a running quantile is that of the last values, sorted by hand', () => {
  const shares = fc.constantFrom(0.01, 0.5, 0.9, 0.97, 1)
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: -50, max: 50 })),
      fc.integer({ min: 1, max: 40 }),
      shares,
      (values, size, share) => {
        const quantile = createRunningQuantile(size)
        for (const [index, value] of values.entries()) {
          quantile.add(value)
          const last = values.slice(Math.max(0, index + 1 - size), index + 1)
          expect(quantile.values()).toEqual(last)
          expect(quantile.count).toBe(last.length)
          const rank = Math.min(last.length, Math.ceil(share * (last.length + 1)))
          expect(quantile.at(share)).toBe(last.toSorted((a, b) => a - b)[rank - 1])
        }
        expect(createRunningQuantile(size, quantile.values()).at(share)).toBe(quantile.at(share))
      },
    ),
  )
})

test('without values there is none, and what is no number is no value', () => {
  const quantile = createRunningQuantile(4)
  expect(quantile.at(0.9)).toBeUndefined()
  quantile.add(Number.NaN)
  quantile.add(Number.POSITIVE_INFINITY)
  expect(quantile.at(0.9)).toBeUndefined()
  quantile.add(7)
  quantile.clear()
  expect(quantile.at(0.9)).toBeUndefined()
  expect(quantile.count).toBe(0)
})
