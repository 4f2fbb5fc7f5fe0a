import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { createHistogram } from '../../bench/histogram.ts'

test('any quantile is within one bucket of the true one', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 10_000_000 }), { minLength: 1, maxLength: 300 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (durations, share) => {
        const histogram = createHistogram()
        for (const us of durations) histogram.add(us)
        const sorted = durations.toSorted((a, b) => a - b)
        const exact = sorted[Math.max(1, Math.ceil(share * sorted.length)) - 1] ?? 0
        expect(Math.abs(histogram.quantile(share) - exact)).toBeLessThanOrEqual(1 + exact * 0.012)
      },
    ),
  )
})

test('durations below zero, as two clocks may give, count as zero', () => {
  const histogram = createHistogram()
  histogram.add(-5)
  expect(histogram.spread()).toEqual({ count: 1, p50: 0, p90: 0, p99: 0, max: 0 })
})

test('an empty histogram says zero, not NaN', () => {
  expect(createHistogram().spread()).toEqual({ count: 0, p50: 0, p90: 0, p99: 0, max: 0 })
})
