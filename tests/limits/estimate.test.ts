import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { createPromptEstimator, measurePrompt, type PromptEstimator } from '../../src/limits/estimate.ts'
import type { OllamaChatRequest } from '../../src/wire/ollama.ts'
import {
  byteTokens,
  characterTokens,
  countWith,
  createChance,
  createTraffic,
  kindsOfText,
  smallVocabularyTokens,
  textOf,
  trainBytePairs,
} from './prompts.ts'

type Count = (request: OllamaChatRequest) => number

const chat = (content: string): OllamaChatRequest => ({
  model: 'any',
  stream: true,
  messages: [{ role: 'user', content }],
})

const learnFrom = (
  estimator: PromptEstimator,
  count: Count,
  next: () => OllamaChatRequest,
  times: number,
) => {
  for (let i = 0; i < times; i++) {
    const request = next()
    estimator.learn(measurePrompt(request), count(request))
  }
}

/** Estimates, then learns, as in service; figures of `times` requests. */
const serve = (estimator: PromptEstimator, count: Count, next: () => OllamaChatRequest, times: number) => {
  const over: number[] = []
  for (let i = 0; i < times; i++) {
    const request = next()
    const features = measurePrompt(request)
    const tokens = count(request)
    over.push((estimator.estimate(features) - tokens) / tokens)
    estimator.learn(features, tokens)
  }
  over.sort((a, b) => a - b)
  return {
    covered: over.filter(share => share >= 0).length / over.length,
    medianOver: over[over.length >> 1] as number,
    worstUnder: over[0] as number,
  }
}

const shortPairs = trainBytePairs(150)
const longPairs = trainBytePairs(700)
const tokenizers: [string, Count][] = [
  ['byte pairs, few merges', countWith(shortPairs)],
  ['byte pairs that know English best', countWith(longPairs)],
  ['a small vocabulary, long system template', countWith(smallVocabularyTokens, { base: 70, message: 4 })],
  ['a vocabulary of characters', countWith(characterTokens, { base: 3, message: 8 })],
  ['one token a byte', countWith(byteTokens, { base: 0, message: 2 })],
]

describe('a prompt estimator', () => {
  for (const [name, count] of tokenizers) {
    test(`after 50 requests reserves enough for 95 % and under 15 % too much: ${name}`, () => {
      for (const seed of [1, 2, 3]) {
        const estimator = createPromptEstimator()
        const next = createTraffic(seed)
        serve(estimator, count, next, 50)
        const figures = serve(estimator, count, next, 400)
        expect(figures.covered).toBeGreaterThanOrEqual(0.95)
        expect(figures.medianOver).toBeLessThan(0.15)
        expect(figures.medianOver).toBeGreaterThan(0)
      }
    })
  }

  test('knowing nothing, reserves between once and twice what common vocabularies take', () => {
    const count = countWith(characterTokens)
    for (const kind of kindsOfText) {
      const request = chat(textOf(kind, createChance(1), 8))
      const ratio = createPromptEstimator().estimate(measurePrompt(request)) / count(request)
      expect(ratio).toBeGreaterThanOrEqual(1)
      expect(ratio).toBeLessThan(2)
    }
  })

  test('learns one token a byte, four times what it expected, within a few requests', () => {
    const estimator = createPromptEstimator()
    const next = createTraffic(5)
    const count = countWith(byteTokens)
    serve(estimator, count, next, 12)
    const { covered, worstUnder } = serve(estimator, count, next, 40)
    expect(covered).toBeGreaterThan(0.8)
    expect(worstUnder).toBeGreaterThan(-0.25)
  })

  test('prompts cut at the context length do not lower the estimate, and are never reserved above it', () => {
    const estimator = createPromptEstimator()
    const count = countWith(characterTokens)
    learnFrom(estimator, count, createTraffic(2), 100)
    const before = estimator.toText()
    for (let i = 0; i < 50; i++) {
      const long = measurePrompt(chat('The river rose during the night. '.repeat(400 + i)))
      expect(estimator.estimate(long, 512)).toBe(512)
      estimator.learn(long, 512, 512)
      estimator.learn(long, 50, 512)
    }
    expect(estimator.toText()).toBe(before)
  })

  test('inputs of an embedding are cut one by one', () => {
    const estimator = createPromptEstimator()
    const input = ['word '.repeat(2000), 'word '.repeat(2000), 'word']
    const features = measurePrompt({ model: 'any', input })
    const before = estimator.toText()
    expect(estimator.estimate(features, 512)).toBe(3 * 512)
    estimator.learn(features, 1025, 512)
    expect(estimator.toText()).toBe(before)
  })

  test('now and then a count without its cached part does not lower the estimate', () => {
    const estimator = createPromptEstimator()
    const count = countWith(longPairs)
    const next = createTraffic(3)
    serve(estimator, count, next, 100)
    let under = 0
    for (let i = 0; i < 300; i++) {
      const request = next()
      const features = measurePrompt(request)
      const tokens = count(request)
      if (estimator.estimate(features) < tokens) under++
      estimator.learn(features, i % 3 === 0 ? Math.ceil(tokens / 20) : tokens)
    }
    expect(under / 300).toBeLessThan(0.05)
  })

  test('when all counts fall for good, the estimate follows', () => {
    const estimator = createPromptEstimator()
    const next = createTraffic(4)
    learnFrom(estimator, countWith(byteTokens), next, 100)
    learnFrom(estimator, countWith(characterTokens), next, 100)
    const { covered, medianOver } = serve(estimator, countWith(characterTokens), next, 200)
    expect(covered).toBeGreaterThanOrEqual(0.95)
    expect(medianOver).toBeLessThan(0.15)
  })

  test('survives a restart: the same estimates from short text', () => {
    for (const [, count] of tokenizers) {
      const estimator = createPromptEstimator()
      const next = createTraffic(6)
      learnFrom(estimator, count, next, 300)
      const text = estimator.toText()
      expect(text.length).toBeLessThan(2000)
      const again = createPromptEstimator(text)
      for (let i = 0; i < 50; i++) {
        const features = measurePrompt(next())
        const ratio = again.estimate(features) / estimator.estimate(features)
        expect(ratio).toBeGreaterThan(0.97)
        expect(ratio).toBeLessThan(1.05)
      }
      const { covered } = serve(again, count, next, 200)
      expect(covered).toBeGreaterThanOrEqual(0.95)
    }
  })

  test('is the same after the same observations', () => {
    const texts = [1, 2].map(() => {
      const estimator = createPromptEstimator()
      learnFrom(estimator, countWith(longPairs), createTraffic(8), 60)
      return estimator.toText()
    })
    expect(texts[0]).toBe(texts[1] as string)
  })

  test('saved text that is not its own counts as nothing learnt', () => {
    const features = measurePrompt(chat('Hello'))
    const fresh = createPromptEstimator().estimate(features)
    for (const text of ['', '{', '[]', 'null', '[[1],[2]]', '{"a":1}', '[["x"],["y"]]']) {
      expect(createPromptEstimator(text).estimate(features)).toBe(fresh)
    }
  })

  test('whatever it is told, an estimate is a whole number of at least 1', () => {
    const text = fc.oneof(
      fc.string(),
      fc.string({ unit: 'binary' }),
      fc.constantFrom('', 'x'.repeat(5000), '好'.repeat(3000)),
    )
    const count = fc.oneof(
      fc.nat(),
      fc.constantFrom(0, 1, -1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 32, 1e15),
    )
    fc.assert(
      fc.property(fc.array(fc.tuple(text, count), { maxLength: 60 }), observations => {
        const estimator = createPromptEstimator()
        for (const [content, tokens] of observations) {
          const features = measurePrompt(chat(content))
          estimator.learn(features, tokens)
          const estimate = estimator.estimate(features)
          expect(Number.isSafeInteger(estimate) && estimate >= 1).toBe(true)
          expect(createPromptEstimator(estimator.toText()).estimate(features)).toBeGreaterThanOrEqual(1)
        }
      }),
    )
  })
})

describe('a prompt', () => {
  const counts = (content: string) => Array.from(measurePrompt(chat(content)).counts)

  test('weighs more with every part it has', () => {
    const estimate = (request: Parameters<typeof measurePrompt>[0]) =>
      createPromptEstimator().estimate(measurePrompt(request))
    const least = estimate(chat('Hello'))
    const message = { role: 'user', content: 'Hello' }
    const more: OllamaChatRequest[] = [
      chat('Hello there'),
      { ...chat('Hello'), messages: [message, message] },
      { ...chat('Hello'), messages: [{ ...message, images: ['AAAA'] }] },
      { ...chat('Hello'), messages: [{ ...message, thinking: 'So they say hello to me.' }] },
      { ...chat('Hello'), tools: [{ type: 'function', function: { name: 'weather' } }] },
      {
        ...chat('Hello'),
        messages: [
          { ...message, tool_calls: [{ function: { name: 'weather', arguments: { city: 'Oslo' } } }] },
        ],
      },
    ]
    for (const request of more) expect(estimate(request)).toBeGreaterThan(least)
    const image = more[2] as OllamaChatRequest
    expect(estimate(image) - least).toBeGreaterThanOrEqual(768)
    const generate = { model: 'any', stream: true, prompt: 'Hello' } as const
    expect(estimate({ ...generate, suffix: 'the end' })).toBeGreaterThan(estimate(generate))
    expect(estimate({ ...generate, raw: true })).toBeLessThan(estimate(generate))
  })

  test('is measured by the text alone, however it is cut into words of the same kinds', () => {
    expect(counts('Hello world')).toEqual(counts('Jolly quack'))
    expect(counts('Grüße, 你好 🦙')).not.toEqual(counts('Gruesse, hao'))
    expect(counts('getWeather')).toEqual(counts('nowPlaying'))
  })

  test('leaves nothing behind for the next', () => {
    const before = counts('a short text')
    counts('ein längerer Text mit 1000 Zeichen und 漢字')
    expect(counts('a short text')).toEqual(before)
  })

  test('of any text takes at least one part of each non-empty text', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1, unit: 'binary' }), content => {
        const sum = counts(content).reduce((total, count) => total + count, 0)
        expect(sum).toBeGreaterThan(counts('').reduce((total, count) => total + count, 0))
      }),
    )
  })
})
