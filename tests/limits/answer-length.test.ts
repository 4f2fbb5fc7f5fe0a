import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { createAnswerLength } from '../../src/limits/answer-length.ts'

const learnt = (lengths: readonly number[]) => {
  const answers = createAnswerLength()
  for (const length of lengths) answers.learn(length, true)
  return answers
}
const times = (count: number, length: number) => Array.from({ length: count }, () => length)

test('the first grant is 512 until a handful of answers was seen', () => {
  expect(learnt([]).usual()).toBe(512)
  expect(learnt(times(4, 40)).usual()).toBe(512)
  expect(learnt(times(5, 40)).usual()).toBe(46)
})

test('nine of ten answers fit in the usual length', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 5, maxLength: 64 }), lengths => {
      const usual = learnt(lengths).usual()
      expect(lengths.filter(length => length <= usual).length / lengths.length).toBeGreaterThanOrEqual(0.9)
    }),
  )
})

test('the usual length is between 16 and 4096', () => {
  expect(learnt(times(9, 0)).usual()).toBe(16)
  expect(learnt(times(9, 100_000)).usual()).toBe(4096)
})

test('answers of long ago are forgotten', () => {
  const answers = learnt(times(200, 2000))
  for (let i = 0; i < 64; i++) answers.learn(100, true)
  expect(answers.usual()).toBe(115)
})

test('an answer that was cut is learnt only when it is longer than usual', () => {
  const answers = learnt(times(20, 100))
  for (let i = 0; i < 60; i++) answers.learn(3, false)
  expect(answers.usual()).toBe(115)
  for (let i = 0; i < 60; i++) answers.learn(1000, false)
  expect(answers.usual()).toBe(1150)
})

test('what was learnt survives a restart, and nonsense counts as nothing learnt', () => {
  const answers = learnt([10, 200, 35, 80, 90, 400])
  expect(createAnswerLength(answers.toText()).usual()).toBe(answers.usual())
  for (const text of ['', '{', '{}', 'null', '["a","b","c","d","e"]'])
    expect(createAnswerLength(text).usual()).toBe(512)
  answers.learn(Number.NaN, true)
  answers.learn(-1, true)
  expect(createAnswerLength(answers.toText()).usual()).toBe(answers.usual())
})
