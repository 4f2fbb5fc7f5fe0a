import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { createRegression } from '../../src/limits/regression.ts'
import { createChance } from './prompts.ts'

const priors = [
  { mean: 5, sd: 5 },
  { mean: 1, sd: 0.5 },
  { mean: 0.2, sd: 0.3 },
]
const truth = [9, 1.4, 0.05]

const createWorld = (seed: number) => {
  const chance = createChance(seed)
  return () => {
    const x = Float64Array.of(1, Math.floor(chance() * 50), Math.floor(chance() * 200))
    const y = truth.reduce((sum, weight, k) => sum + weight * (x[k] as number), 0)
    return { x, y: y + (chance() - 0.5) * 2 }
  }
}

const taught = (seed: number, times: number) => {
  const regression = createRegression(priors)
  const next = createWorld(seed)
  for (let i = 0; i < times; i++) {
    const { x, y } = next()
    regression.learn(x, y, 1)
  }
  return regression
}

describe('a regression', () => {
  test('begins with its prior, and says how unsure it is', () => {
    const regression = createRegression(priors)
    expect(regression.mean(Float64Array.of(1, 10, 0))).toBe(15)
    expect(regression.variance(Float64Array.of(1, 10, 0))).toBeCloseTo(5 ** 2 + 5 ** 2)
  })

  test('finds the weights behind noisy observations, and grows sure of them', () => {
    const regression = taught(1, 300)
    for (const [k, weight] of truth.entries()) {
      expect(Math.abs((regression.weights[k] as number) - weight)).toBeLessThan(0.1 * (priors[k]?.sd ?? 0))
    }
    expect(regression.variance(Float64Array.of(1, 20, 100))).toBeLessThan(1)
  })

  test('one surprise hardly moves it; two in a row from above, or eight from below, do', () => {
    const x = Float64Array.of(1, 20, 100)
    const expected = taught(2, 100).mean(x)
    for (const [y, needed] of [
      [5 * expected, 2],
      [0.1 * expected, 8],
    ] as const) {
      const regression = taught(2, 100)
      for (let i = 1; i < needed; i++) {
        expect(regression.learn(x, y, 1)).toBe('doubted')
        expect(Math.abs(regression.mean(x) - expected)).toBeLessThan(0.1 * expected)
      }
      expect(regression.learn(x, y, 1)).toBe('believed')
      expect(Math.abs(regression.mean(x) - expected)).toBeGreaterThan(0.2 * Math.abs(y - expected))
    }
  })

  test('surprises with others in between stay doubted', () => {
    const regression = taught(3, 100)
    const next = createWorld(4)
    for (let i = 0; i < 40; i++) {
      expect(regression.learn(Float64Array.of(1, 20, 100), 0, 1)).toBe('doubted')
      const { x, y } = next()
      expect(regression.learn(x, y, 1)).toBe('expected')
    }
  })

  test('whatever it is shown: no weight below zero, no variance below zero, the same after saving', () => {
    const value = fc.oneof(fc.nat({ max: 5000 }), fc.constantFrom(0, 1, 1e7))
    const observation = fc.tuple(
      value,
      value,
      value,
      fc.oneof(fc.nat(), fc.double({ min: 0, max: 1e12, noNaN: true })),
    )
    fc.assert(
      fc.property(fc.array(observation, { maxLength: 80 }), observations => {
        const regression = createRegression(priors)
        for (const [a, b, c, y] of observations) {
          regression.learn(Float64Array.of(a, b, c), y, 1 + 0.01 * y)
          expect(regression.weights.every(weight => weight >= 0 && Number.isFinite(weight))).toBe(true)
          expect(regression.variance(Float64Array.of(a, b, c))).toBeGreaterThanOrEqual(0)
        }
        const again = createRegression(priors, regression.toNumbers())
        for (const [k, weight] of again.weights.entries()) {
          expect(Math.abs(weight - (regression.weights[k] as number))).toBeLessThanOrEqual(
            1e-4 * (priors[k]?.sd ?? 0),
          )
        }
      }),
    )
  })

  test('numbers that are not its own are refused', () => {
    const numbers = taught(5, 20).toNumbers()
    expect(createRegression(priors, numbers).weights).not.toEqual(createRegression(priors).weights)
    for (const wrong of [[], numbers.slice(1), [...numbers, 0], numbers.map(number => number + 0.5)]) {
      expect(createRegression(priors, wrong).weights).toEqual(createRegression(priors).weights)
    }
  })
})
