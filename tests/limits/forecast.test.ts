import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { toDemand } from '../../src/limits/forecast.ts'
import { unlimited } from '../contract/window-store.ts'

const size = fc.option(fc.nat({ max: 200 }), { nil: null })
const forecast = fc
  .tuple(fc.integer({ min: 1, max: 150 }), fc.nat({ max: 150 }), fc.nat({ max: 600 }))
  .map(([promptExpected, margin, usual]) => ({ prompt: promptExpected + margin, promptExpected, usual }))

test('what fits as it was estimated is asked for as it is', () => {
  expect(toDemand({ prompt: 63, promptExpected: 19, usual: 512 }, unlimited)).toEqual({
    prompt: 63,
    usual: 512,
  })
  expect(
    toDemand({ prompt: 63, promptExpected: 19, usual: 512 }, { ...unlimited, tokensPerDay: 64 }),
  ).toEqual({
    prompt: 63,
    usual: 512,
  })
})

test('what most likely fits a whole limit asks for no more than that, its prompt and a token at least', () => {
  const tight = { ...unlimited, tokensPerMinute: 60, tokensPerDay: 1000 }
  expect(toDemand({ prompt: 63, promptExpected: 19, usual: 512 }, tight)).toEqual({ prompt: 39, usual: 512 })
  expect(toDemand({ prompt: 63, promptExpected: 59, usual: 512 }, tight)).toEqual({ prompt: 59, usual: 512 })
  expect(toDemand({ prompt: 63, promptExpected: 60, usual: 512 }, tight)).toEqual({ prompt: 63, usual: 512 })
  expect(toDemand({ prompt: 63, promptExpected: 60, usual: 0 }, tight)).toEqual({ prompt: 60, usual: 0 })
  expect(toDemand({ prompt: 63, promptExpected: 19, usual: 5 }, tight)).toEqual({ prompt: 55, usual: 5 })
})

test('of any forecast and limits: never more than was estimated, and refused for ever only what most likely is too large', () => {
  fc.assert(
    fc.property(forecast, size, size, size, (asked, tokensPerMinute, tokensPerDay, totalTokens) => {
      const { prompt, usual } = toDemand(asked, { ...unlimited, tokensPerMinute, tokensPerDay, totalTokens })
      const sizes = [tokensPerMinute, tokensPerDay, totalTokens].filter(each => each !== null)
      const fits = (tokens: number) => sizes.every(each => tokens + Math.min(1, usual) <= each)
      expect(usual).toBe(asked.usual)
      expect(prompt).toBeLessThanOrEqual(asked.prompt)
      expect(prompt).toBeGreaterThanOrEqual(asked.promptExpected)
      expect(fits(prompt)).toBe(fits(asked.promptExpected))
      if (fits(asked.prompt) || !fits(prompt)) expect(prompt).toBe(asked.prompt)
    }),
  )
})
