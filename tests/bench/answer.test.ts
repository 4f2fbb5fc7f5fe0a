import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { createAnswerCheck, type Dialect } from '../../bench/answer.ts'

const payloads = [' the', ' model', ' says\n', ' "q"', ' café', ' <b>', ' back\\slash', ' 日本']
const token = (index: number) => `${index}@${1_000_000 + index}${payloads[index & 7]}`
/** As the load generator sees bytes. */
const latin1 = (text: string) => Buffer.from(text).toString('latin1')

const chunk = (content: string) =>
  `data: ${JSON.stringify({ id: 'x', choices: [{ index: 0, delta: { content }, finish_reason: null }] })}\n\n`
const finish = `data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n`
const usage = 'data: {"id":"x","choices":[],"usage":{"total_tokens":1}}\n\n'
const done = 'data: [DONE]\n\n'
const line = (content: string) =>
  `${JSON.stringify({ model: 'm', message: { role: 'assistant', content }, done: false })}\n`
const lastLine = '{"model":"m","message":{"role":"assistant","content":""},"done":true}\n'
const tokens = (count: number) => Array.from({ length: count }, (_, index) => token(index))

const check = (
  texts: readonly string[],
  { dialect = 'openai' as Dialect, stream = true, count = 20 } = {},
) => {
  const made: number[] = []
  const answer = createAnswerCheck({ dialect, stream, tokens: count, onToken: us => void made.push(us) })
  for (const text of texts) answer.push(latin1(text))
  return { fault: answer.end(), made }
}

test('a right stream of events has no fault and gives the moment of every token', () => {
  const { fault, made } = check([': ok\n', ...tokens(20).map(chunk), finish, usage, done])
  expect(fault).toBeUndefined()
  expect(made).toEqual(tokens(20).map((_, index) => 1_000_000 + index))
})

test('a right stream of lines has no fault, several tokens a line too', () => {
  const texts = [line(tokens(20).slice(0, 7).join('')), ...tokens(20).slice(7).map(line), lastLine]
  expect(check(texts, { dialect: 'ollama' }).fault).toBeUndefined()
})

test('characters beyond ASCII may come as JSON escapes', () => {
  const escaped = (text: string) =>
    text.replace(/[^\x20-\x7e\n]/g, one => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`)
  expect(check([...tokens(20).map(chunk).map(escaped), finish, done]).fault).toBeUndefined()
})

test('a plain answer is checked in both dialects', () => {
  const content = tokens(20).join('')
  const openai = JSON.stringify({ choices: [{ message: { content }, finish_reason: 'stop' }] })
  expect(check([openai.slice(0, 50), openai.slice(50)], { stream: false }).fault).toBeUndefined()
  const ollama = JSON.stringify({ message: { content }, done: true })
  expect(check([ollama], { stream: false, dialect: 'ollama' }).fault).toBeUndefined()
})

test('a stream reads the same however it is split', () => {
  const text = latin1([...tokens(12).map(chunk), finish, done].join(''))
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 200 }), size => {
      const answer = createAnswerCheck({ dialect: 'openai', stream: true, tokens: 12, onToken: () => {} })
      for (let at = 0; at < text.length; at += size) answer.push(text.slice(at, at + size))
      expect(answer.end()).toBeUndefined()
    }),
  )
})

test('a lost, doubled, swapped or altered token is a fault, wherever it is', () => {
  const all = tokens(20)
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 18 }), at => {
      const faultOf = (changed: string[]) => check([...changed.map(chunk), finish, done]).fault
      expect(faultOf(all.toSpliced(at, 1))).toBeDefined()
      expect(faultOf(all.toSpliced(at, 0, token(at)))).toBeDefined()
      expect(faultOf(all.toSpliced(at, 2, token(at + 1), token(at)))).toBeDefined()
      expect(faultOf(all.with(at, token(at).replace(' ', '  ')))).toBeDefined()
    }),
  )
})

test('an answer without its end is a fault: no finish, no [DONE], cut within a line, or an error', () => {
  const chunks = tokens(20).map(chunk)
  expect(check([...chunks, done]).fault).toContain('no end')
  expect(check([...chunks, finish]).fault).toContain('[DONE]')
  expect(check([...chunks, finish, 'data: [DO']).fault).toContain('unfinished')
  expect(check([...chunks, 'data: {"error":{"message":"broke"}}\n\n']).fault).toContain('an error')
  expect(check([...chunks, finish, done, chunk('more')]).fault).toContain('after [DONE]')
  expect(check([...chunks, finish, chunk(token(20)), done]).fault).toContain('after the end')
})

test('lines that differ in their text only read the same as lines that are parsed whole', () => {
  const spoil = (text: string, change: string) => (change === 'none' ? text : text.replace(' ', change))
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom('none', '  ', '"', '\\', '\u00e9'), { minLength: 1, maxLength: 20 }),
      changes => {
        const contents = changes.map((change, index) => spoil(token(index), change))
        // An id of its own in each chunk leaves no line that begins like another.
        const whole = contents.map((content, index) => chunk(content).replace('"x"', `"x${index}"`))
        const count = contents.length
        expect(check([...contents.map(chunk), finish, done], { count })).toEqual(
          check([...whole, finish, done], { count }),
        )
      },
    ),
  )
})
