import { describe, expect, test } from 'bun:test'
import { readdirSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import { createCompletionCounter, createTokenRatio, type TokenRatio } from '../../src/limits/count.ts'
import type { Line } from '../../src/wire/ollama.ts'

const captures = new URL('../fixtures/captures/', import.meta.url)

/** The tokens of the recorded models' scripts: each element was one token (captures: scripted-model). */
const scripts = [
  ['Hello', ', wor', 'ld', '!\n'],
  ['Grüße', ' 你好', ' ', '🦙', ' \u2028sep', ' "quoted\\"', '\n\ttab', ' </script>', ' fin'],
  ['<think>', 'Let', ' me', ' think.', '</think>', '\n\n', 'The', ' answer', ' is', ' 42'],
  [
    'I will',
    ' look.',
    '<tool_call>',
    '{"name": "get_wea',
    'ther", "arguments": {"city": "Bern"}}',
    '</tool_call>',
  ],
  ['<think>\n', 'A tool', ' helps.', '\n</think>\n\n', '<tool_call>', '"Lima"', '</tool_call>'],
  ['<|channel|>analysis<|message|>', 'Hm', ', easy', '<|end|><|start|>assistant', 'It is', ' sunny'],
  ['{"ans', 'wer"', ': 4', '2}'],
  ['one', ' two', ' ST', 'OP', ' three', ' four'],
  Array.from({ length: 120 }, (_, index) => ` w${index}`),
]

type Stream = {
  name: string
  model: string
  lines: Line[]
  evalCount: number
  naturalEnd: boolean
  twice: boolean
}

const readStreams = (): Stream[] => {
  const streams: Stream[] = []
  for (const path of readdirSync(captures, { recursive: true, encoding: 'utf8' })) {
    if (!path.endsWith('response.ndjson')) continue
    const name = path.slice(0, path.lastIndexOf('/'))
    const request = JSON.parse(readFileSync(new URL(`${name}/request.json`, captures), 'utf8'))
    if (request.path !== '/api/chat' && request.path !== '/api/generate') continue
    const lines: Line[] = readFileSync(new URL(path, captures), 'utf8')
      .split('\n')
      .filter(Boolean)
      .map(line => JSON.parse(line))
    const last = lines.at(-1)
    if (last?.eval_count === undefined) continue
    streams.push({
      name,
      model: request.body.model,
      lines,
      evalCount: last.eval_count,
      naturalEnd: last.done_reason === 'stop',
      // The first run of the two is not in eval_count.
      twice: request.body.format !== undefined && lines.some(line => line.message?.thinking !== undefined),
    })
  }
  return streams.sort((a, b) => (a.name < b.name ? -1 : 1))
}
const streams = readStreams()

const textOf = (line: Line): string => {
  const thinking = line.message?.thinking ?? line.thinking ?? ''
  return thinking + (line.message?.content ?? line.response ?? '')
}

/**
 * How many tokens had been generated when each line was delivered: the place in the script that the text has reached.
 * What the script does not tell (tool calls, repeated scripts) is spread over the pieces by Ollama's own count.
 */
const truthOf = ({ lines, evalCount, naturalEnd }: Stream): number[] => {
  const tokens = naturalEnd ? evalCount - 1 : evalCount
  const pieces = lines.map(textOf)
  for (const script of scripts) {
    let place = 0
    const places = pieces.map(piece => {
      let rest = piece.trim()
      let next = place
      while (rest !== '' && next < script.length) {
        const word = (script[next] as string).trim()
        next++
        if (word !== '' && rest.startsWith(word)) rest = rest.slice(word.length).trim()
      }
      if (rest !== '' || piece.trim() === '') return place
      place = next
      return place
    })
    if (
      place === tokens &&
      pieces.every((piece, index) => piece.trim() === '' || places[index] !== places[index - 1])
    )
      return places
  }
  const something = lines.map(line => (textOf(line) !== '' || line.message?.tool_calls !== undefined ? 1 : 0))
  const all = something.reduce<number>((sum, one) => sum + one, 0)
  let seen = 0
  return something.map(one => {
    seen += one
    return all === 0 ? 0 : (tokens * seen) / all
  })
}

const noteAll = (ratio: TokenRatio, lines: readonly Line[]) => {
  const counter = createCompletionCounter(ratio)
  for (const line of lines) counter.note(line)
  return counter
}

const learntWithout = (held: Stream): TokenRatio => {
  const ratio = createTokenRatio()
  for (const stream of streams) {
    if (stream === held || stream.model !== held.model || stream.twice) continue
    ratio.learn(noteAll(ratio, stream.lines), stream.evalCount, stream.naturalEnd)
  }
  return ratio
}

const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1] as number
const tokensOf = ({ evalCount, naturalEnd }: Stream) => (naturalEnd ? evalCount - 1 : evalCount)

const say = (content: string): Line => ({ message: { role: 'assistant', content }, done: false })
const think = (thinking: string): Line => ({
  message: { role: 'assistant', content: '', thinking },
  done: false,
})
const call = (name: string, args: Record<string, unknown>): Line => ({
  message: { role: 'assistant', content: '', tool_calls: [{ function: { name, arguments: args } }] },
  done: false,
})
const end: Line = {
  message: { role: 'assistant', content: '' },
  done: true,
  done_reason: 'stop',
  eval_count: 9,
}

describe('the count of a recorded stream', () => {
  const judged = streams.filter(stream => !stream.twice && tokensOf(stream) > 0)

  test('there are recordings of every kind', () => {
    expect(judged.length).toBeGreaterThan(35)
  })

  test('at its end is within 2 % of Ollama’s, in the median; exact for two of three', () => {
    const errors = judged.map(stream => {
      const { count } = noteAll(learntWithout(stream), stream.lines)
      return Math.abs(count - tokensOf(stream)) / tokensOf(stream)
    })
    expect(errors.filter(error => error === 0).length / errors.length).toBeGreaterThan(2 / 3)
    expect(median(errors)).toBeLessThan(0.02)
  })

  test('cut after any line is within 2 % of what was generated, in the median', () => {
    const all: number[] = []
    const mediansOfStreams = judged.map(stream => {
      const counter = createCompletionCounter(learntWithout(stream))
      const errors: number[] = []
      for (const [index, tokens] of truthOf(stream).entries()) {
        counter.note(stream.lines[index] as Line)
        if (tokens > 0) errors.push(Math.abs(counter.count - tokens) / tokens)
      }
      all.push(...errors)
      return median(errors)
    })
    expect(median(all)).toBeLessThan(0.02)
    expect(median(mediansOfStreams)).toBeLessThan(0.02)
  })

  test('unlearnt is within 2 % too, in the median', () => {
    const errors = judged.map(stream => {
      const { count } = noteAll(createTokenRatio(), stream.lines)
      return Math.abs(count - tokensOf(stream)) / tokensOf(stream)
    })
    expect(median(errors)).toBeLessThan(0.02)
  })

  test('with its doubt is what a grant must cover, and Ollama’s was over it once in the recordings', () => {
    for (const ratioOf of [() => createTokenRatio(), learntWithout]) {
      const over = judged.filter(stream => {
        const { count, doubt } = noteAll(ratioOf(stream), stream.lines)
        expect(doubt).toBeGreaterThanOrEqual(0)
        return tokensOf(stream) > count + doubt
      })
      expect(over.length).toBeLessThanOrEqual(1)
    }
  })

  test('is never zero when something was delivered', () => {
    for (const stream of streams) {
      const counter = createCompletionCounter(createTokenRatio())
      let delivered = false
      for (const line of stream.lines) {
        counter.note(line)
        delivered ||= textOf(line) !== '' || line.message?.tool_calls !== undefined
        expect(counter.count > 0).toBe(delivered || (line.logprobs !== undefined && counter.count > 0))
      }
    }
  })

  test('with logprobs is exact at every line', () => {
    const exact = streams.filter(({ name }) => name.includes('logprobs'))
    expect(exact.length).toBeGreaterThanOrEqual(4)
    for (const stream of exact) {
      expect(noteAll(createTokenRatio(), stream.lines).count).toBe(stream.evalCount - 1)
    }
  })

  test('knows thinking from the answer', () => {
    const stream = streams.find(({ name }) => name === 'chat-think-true-stream') as Stream
    const counter = noteAll(learntWithout(stream), stream.lines)
    expect(counter.count).toBe(10) // <think> Let me think. </think> \n\n The answer is 42
    expect(counter.reasoning).toBe(6)
    const plain = streams.find(({ name }) => name === 'chat-hello-stream') as Stream
    expect(noteAll(createTokenRatio(), plain.lines).reasoning).toBe(0)
  })
})

describe('a completion counter', () => {
  test('a line with nothing is worth nothing, the end line too', () => {
    const counter = createCompletionCounter(createTokenRatio())
    for (const line of [{}, say(''), { response: '' }, { error: 'broken' }, { ...end, logprobs: [] }, end]) {
      expect(counter.note(line)).toBe(0)
    }
    expect(counter.count).toBe(0)
  })

  test('a tool call on the end line counts', () => {
    const counter = createCompletionCounter(createTokenRatio())
    expect(counter.note({ ...call('get_weather', { city: 'Kyiv' }), done: true })).toBeGreaterThan(5)
  })

  test('a short piece is one token, a held back piece as many as its length says', () => {
    const counter = createCompletionCounter(createTokenRatio())
    expect(counter.note(say(' answer'))).toBe(1)
    expect(counter.note(say('你好'))).toBe(1)
    expect(counter.note({ response: ' 42' })).toBe(1)
    expect(counter.note(say('x'.repeat(400)))).toBe(100)
    expect(counter.note(say('好'.repeat(100)))).toBe(75)
    expect(counter.count).toBe(178)
  })

  test('a model whose lines hold several tokens is learnt within three answers', () => {
    const ratio = createTokenRatio()
    const answer = Array.from({ length: 80 }, (_, index) => say(` three token${index}`))
    for (let i = 0; i < 3; i++) ratio.learn(noteAll(ratio, answer), 3 * 80 + 1, true)
    const { count } = noteAll(ratio, answer.slice(0, 40))
    expect(Math.abs(count - 120) / 120).toBeLessThan(0.02)
  })

  for (const [name, text, tokens] of [
    ['ideographs', '龘', 2],
    ['emoji', '🧿', 3],
    ['joined emoji', '🧿🧿', 6],
    ['words held back for a stop string', '1 1 1 1 1 1 1 1 1 1 1 1 ', 12],
    ['tool calls', undefined, 25],
    ['words', ' word', 1],
  ] as const) {
    test(`of ${name} the doubt is enough from the first answer on, and small when a few were learnt`, () => {
      const ratio = createTokenRatio()
      const answer = Array.from({ length: 100 }, () =>
        text === undefined ? call('get_weather', { city: 'Kyiv', unit: 'celsius' }) : say(text),
      )
      const truth = 100 * tokens
      const first = noteAll(ratio, answer)
      expect(first.count + first.doubt).toBeGreaterThanOrEqual(truth)
      for (let i = 0; i < 5; i++) ratio.learn(noteAll(ratio, answer), truth + 1, true)
      const { count, doubt } = noteAll(ratio, answer)
      expect(Math.abs(count - truth) / truth).toBeLessThan(0.03)
      expect(count + doubt).toBeGreaterThanOrEqual(truth * 0.99)
      expect(count + doubt).toBeLessThan(truth * 1.05)
    })
  }

  test('with logprobs there is no doubt', () => {
    const counter = createCompletionCounter(createTokenRatio())
    for (let i = 0; i < 50; i++) counter.note({ ...say('🧿'), logprobs: [{ token: '🧿', logprob: 0 }] })
    expect([counter.count, counter.doubt]).toEqual([50, 0])
    for (let i = 0; i < 10; i++) counter.note(say('🧿'))
    const doubt = counter.doubt
    expect(doubt).toBeGreaterThan(9)
    counter.note({ ...say('a'), logprobs: [{ token: 'a', logprob: 0 }] })
    expect(counter.doubt).toBeGreaterThanOrEqual(doubt)
  })

  test('counts learnt survive a restart', () => {
    const ratio = createTokenRatio()
    const answer = [think('So'), think(' what'), ...Array.from({ length: 60 }, () => say(' and so on'))]
    for (let i = 0; i < 20; i++) ratio.learn(noteAll(ratio, answer), 135, true)
    const text = ratio.toText()
    expect(text.length).toBeLessThan(300)
    expect(noteAll(createTokenRatio(text), answer).count).toBe(noteAll(ratio, answer).count)
    for (const wrong of ['', '{}', '[1]', '["a"]', 'null']) {
      expect(createTokenRatio(wrong).weights).toEqual(createTokenRatio().weights)
    }
  })

  test('one absurd count does not spoil the ratio', () => {
    const ratio = createTokenRatio()
    const answer = Array.from({ length: 50 }, () => say(' word'))
    for (let i = 0; i < 10; i++) ratio.learn(noteAll(ratio, answer), 51, true)
    for (const absurd of [4_294_967_295, 1, 0, Number.NaN]) ratio.learn(noteAll(ratio, answer), absurd, true)
    expect(noteAll(ratio, answer).count).toBe(50)
  })

  test('of any lines, what note returns are whole numbers of 0 or more that add up to the count', () => {
    const line = fc.oneof(
      fc.string({ maxLength: 60 }).map(say),
      fc.string({ maxLength: 60 }).map(think),
      fc.string().map(response => ({ response })),
      fc.string().map(name => call(name, { name })),
      fc.nat({ max: 5 }).map(length => ({
        ...say('x'),
        logprobs: Array.from({ length }, () => ({ token: 'x', logprob: 0 })),
      })),
      fc.constant(end),
    )
    const run = fc.tuple(fc.array(line), fc.nat({ max: 2000 }), fc.boolean())
    fc.assert(
      fc.property(fc.array(run, { maxLength: 12 }), runs => {
        const ratio = createTokenRatio()
        for (const [lines, evalCount, naturalEnd] of runs) {
          const counter = createCompletionCounter(ratio)
          let sum = 0
          for (const each of lines) {
            const tokens = counter.note(each)
            expect(Number.isSafeInteger(tokens) && tokens >= 0).toBe(true)
            sum += tokens
          }
          expect(counter.count).toBe(sum)
          expect(counter.reasoning).toBeLessThanOrEqual(sum)
          ratio.learn(counter, evalCount, naturalEnd)
        }
      }),
    )
  })
})
