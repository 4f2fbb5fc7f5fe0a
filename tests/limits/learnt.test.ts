import { expect, test } from 'bun:test'
import { createPromptEstimator, measurePrompt } from '../../src/limits/estimate.ts'
import { createLearnt, type ModelLearnt } from '../../src/limits/learnt.ts'
import type { Line } from '../../src/wire/ollama.ts'
import { byteTokens, countWith, createTraffic } from './prompts.ts'

const count = countWith(byteTokens)
const say = (content: string): Line => ({ message: { role: 'assistant', content }, done: false })

/** Answers of 40 lines of two tokens each. */
const finish = (model: ModelLearnt, next: ReturnType<typeof createTraffic>) => {
  const request = next()
  const counter = model.counter()
  for (let i = 0; i < 40; i++) counter.note(say(' two words'))
  model.learn({
    features: measurePrompt(request),
    promptTokens: count(request),
    completionTokens: 81,
    counter,
    naturalEnd: true,
  })
}

const createSaved = () => {
  const texts = new Map<string, string>()
  const models: string[] = []
  const onLearnt = (model: string, text: string) => {
    texts.set(model, text)
    models.push(model)
  }
  return { models, onLearnt, entries: () => Array.from(texts, ([model, text]) => ({ model, text })) }
}

test('what was learnt of a model comes back after a restart, and only of that model', () => {
  const saved = createSaved()
  const next = createTraffic(1)
  const learnt = createLearnt([], saved.onLearnt)
  for (let i = 0; i < 50; i++) finish(learnt.of('busy:latest'), next)
  learnt.flush()
  const again = createLearnt(saved.entries(), saved.onLearnt)
  const request = next()
  const features = measurePrompt(request)
  const known = again.of('busy:latest')
  const needed = count(request)
  expect(known.estimatePrompt(features)).toBeGreaterThanOrEqual(needed)
  expect(known.estimatePrompt(features)).toBeLessThan(1.25 * needed)
  expect(createPromptEstimator().estimate(features)).toBeLessThan(needed)
  expect(known.estimatePrompt(features, 7)).toBe(7)
  expect(known.usualAnswer()).toBe(94)
  const counter = known.counter()
  for (let i = 0; i < 10; i++) counter.note(say(' two words'))
  expect(counter.count).toBe(20)
  const other = again.of('other:latest')
  expect(other.usualAnswer()).toBe(512)
  expect(other.estimatePrompt(features)).toBe(createPromptEstimator().estimate(features))
})

test('is handed over once in 16 observations, and by flush only when something is new', () => {
  const saved = createSaved()
  const next = createTraffic(2)
  const learnt = createLearnt([], saved.onLearnt)
  for (let i = 0; i < 15; i++) finish(learnt.of('a'), next)
  expect(saved.models).toEqual([])
  finish(learnt.of('a'), next)
  expect(saved.models).toEqual(['a'])
  finish(learnt.of('b'), next)
  learnt.of('c')
  learnt.flush()
  expect(saved.models).toEqual(['a', 'b'])
  learnt.flush()
  expect(saved.models).toEqual(['a', 'b'])
  for (const { text } of saved.entries()) expect(text.length).toBeLessThan(2500)
})

test('a thousand models are kept; the least recently used makes room, is saved, and begins where it was', () => {
  const saved = createSaved()
  const next = createTraffic(3)
  const learnt = createLearnt([], saved.onLearnt)
  for (let i = 0; i < 8; i++) finish(learnt.of('first'), next)
  for (let i = 0; i < 8; i++) finish(learnt.of('second'), next)
  for (let i = 0; i < 998; i++) finish(learnt.of(`model-${i}`), next)
  learnt.of('first')
  expect(saved.models).toEqual([])
  finish(learnt.of('one more'), next)
  expect(saved.models).toEqual(['second'])
  expect(learnt.of('second').usualAnswer()).toBe(94)
  expect(learnt.of('first').usualAnswer()).toBe(94)
})

test('names that never answered keep nothing and push nobody out', () => {
  const saved = createSaved()
  const next = createTraffic(3)
  const learnt = createLearnt([], saved.onLearnt)
  for (let i = 0; i < 8; i++) finish(learnt.of('known'), next)
  const usual = learnt.of('known').usualAnswer()
  for (let i = 0; i < 3000; i++) learnt.of(`invented-${i}`).estimatePrompt(measurePrompt(next()))
  expect(saved.models).toEqual([])
  expect(learnt.of('known').usualAnswer()).toBe(usual)
})

test('thinking under a format, of which Ollama reports the second run only, teaches nothing', () => {
  const saved = createSaved()
  const model = createLearnt([], saved.onLearnt).of('thinker')
  const request = { ...createTraffic(4)(), format: 'json' as const }
  for (let i = 0; i < 20; i++) {
    const counter = model.counter()
    counter.note({ message: { role: 'assistant', content: '', thinking: 'Let me think' } })
    counter.note(say('{}'))
    model.learn({
      features: measurePrompt(request),
      promptTokens: 5000,
      completionTokens: 2,
      counter,
      naturalEnd: true,
    })
  }
  expect(saved.models).toEqual([])
  expect(model.usualAnswer()).toBe(512)
})

test('an observation without counts is no observation of 0', () => {
  const model = createLearnt([], () => {}).of('quiet')
  const features = measurePrompt(createTraffic(5)())
  const before = model.estimatePrompt(features)
  for (let i = 0; i < 20; i++) model.learn({ features, counter: model.counter(), naturalEnd: false })
  expect(model.estimatePrompt(features)).toBe(before)
  expect(model.usualAnswer()).toBe(512)
})

test('a saved text that is not understood counts as nothing learnt', () => {
  for (const text of ['', '{', '[]', '[1,2,3]', '["","",""]', '"x"']) {
    const model = createLearnt([{ model: 'odd', text }], () => {}).of('odd')
    expect(model.usualAnswer()).toBe(512)
    expect(model.counter().note(say('x'))).toBe(1)
  }
})
