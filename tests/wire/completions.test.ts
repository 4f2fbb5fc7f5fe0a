import { describe, expect, test } from 'bun:test'
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { ApiError } from '../../src/errors.ts'
import {
  type Completion,
  createCompletionAnswer,
  createCompletionStream,
} from '../../src/wire/completion-answer.ts'
import {
  type PreparedCompletion,
  parseCompletionRequest,
  toOllamaGenerate,
} from '../../src/wire/completions.ts'
import type { Line } from '../../src/wire/ollama.ts'
import type { Writer } from '../../src/wire/writer.ts'

const prepare = (body: unknown): PreparedCompletion => toOllamaGenerate(parseCompletionRequest(body))
const base = { model: 'm', prompt: 'Once' }

const faultOf = (body: unknown) => {
  try {
    prepare(body)
  } catch (cause) {
    if (cause instanceof ApiError) return { status: cause.status, ...cause.body.error }
    throw cause
  }
  throw new Error('accepted')
}

describe('what a client sends becomes requests to /api/generate', () => {
  test('a prompt becomes one streaming request that shows no thinking, and nothing else is invented', () => {
    const { requests, ...rest } = prepare({ model: 'M:1b', prompt: 'Once' })
    expect(requests).toEqual([{ model: 'M:1b', prompt: 'Once', stream: true, think: false }])
    expect(rest).toEqual({
      model: 'M:1b',
      choices: 1,
      maxTokens: null,
      stream: false,
      includeUsage: false,
      echo: false,
      ignored: [],
    })
  })

  test('an array becomes one request per prompt, in order, each to be run n times', () => {
    const { requests, choices } = prepare({ model: 'm', prompt: ['a', '', 'b'], n: 2 })
    expect(requests.map(request => request.prompt)).toEqual(['a', '', 'b'])
    expect(choices).toBe(2)
  })

  test('a null prompt is an empty one', () => {
    expect(prepare({ model: 'm', prompt: null }).requests.map(request => request.prompt)).toEqual([''])
  })

  test('sampling, stop, suffix and logprobs are translated; zero and false survive', () => {
    const sent = {
      temperature: 0,
      top_p: 0,
      seed: 0,
      presence_penalty: 0,
      frequency_penalty: -2,
      top_k: 0,
      min_p: 0,
    }
    const [request] = prepare({ ...base, ...sent, stop: ['', 'x'], suffix: ' end', logprobs: 0 }).requests
    expect(request).toEqual({
      model: 'm',
      prompt: 'Once',
      stream: true,
      think: false,
      suffix: ' end',
      logprobs: true,
      top_logprobs: 0,
      options: { ...sent, stop: ['x'] },
    })
  })

  test('without max_tokens there is no cap; 0 and less mean the same', () => {
    for (const max_tokens of [undefined, null, 0, -1])
      expect(prepare({ ...base, max_tokens }).maxTokens).toBeNull()
    expect(prepare({ ...base, max_tokens: 16 }).maxTokens).toBe(16)
  })

  test('stream, stream_options and echo', () => {
    const prepared = prepare({ ...base, stream: true, echo: true, stream_options: { include_usage: true } })
    expect(prepared).toMatchObject({ stream: true, includeUsage: true, echo: true })
  })

  test.each([
    ['<fim_prefix>a<fim_suffix>b<fim_middle>', true],
    ['<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>', true],
    ['<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>', true],
    ['<fim-prefix>a<fim-suffix>', true],
    ['<|code_prefix|>a<|code_suffix|>b<|code_middle|>', true],
    ['<PRE> a <SUF>b <MID>', true],
    ['[SUFFIX]b[PREFIX]a', true],
    ['<PRE>formatted</PRE>', false],
    ['set the [PREFIX] first', false],
    ['<code>fim_prefix</code> and <| pipes |>', false],
    ['a plain prompt', false],
  ])('%p goes past the template: %p', (prompt, raw) => {
    expect(prepare({ model: 'm', prompt }).requests[0]?.raw).toBe(raw ? true : undefined)
  })

  test('with a suffix the model makes its own fill-in-the-middle prompt', () => {
    const [request] = prepare({ model: 'm', prompt: '<fim_prefix>a', suffix: 'b' }).requests
    expect(request).toMatchObject({ suffix: 'b' })
    expect(request).not.toHaveProperty('raw')
  })

  test('what has no effect is named, what asks for nothing is not', () => {
    const sent = {
      logit_bias: { '50256': -100 },
      user: 'u',
      keep_alive: -1,
      options: { num_ctx: 99, top_k: 1 },
    }
    expect(prepare({ ...base, ...sent, best_of: 1 }).ignored).toEqual([
      'logit_bias',
      'user',
      'keep_alive',
      'options.num_ctx',
    ])
    expect(prepare({ ...base, logit_bias: {}, user: '', suffix: null, best_of: 0, n: null }).ignored).toEqual(
      [],
    )
  })
})

describe('what cannot be done is refused by name', () => {
  test.each([
    [{ model: 'm' }, 'prompt', 'missing_required_parameter', /prompt/],
    [{ prompt: 'x' }, 'model', 'missing_required_parameter', /model/],
    [{ model: '', prompt: 'x' }, 'model', 'missing_required_parameter', /model/],
    [{ model: 'm', prompt: [1, 2, 3] }, 'prompt', 'invalid_value', /token arrays are not supported/],
    [{ model: 'm', prompt: [[1, 2], [3]] }, 'prompt', 'invalid_value', /token arrays are not supported/],
    [{ model: 'm', prompt: [] }, 'prompt', 'empty_array', /at least one/],
    [{ model: 'm', prompt: 5 }, 'prompt', 'invalid_type', /got an integer/],
    [{ model: 'm', prompt: ['a', null] }, 'prompt[1]', 'invalid_type', /got null/],
    [{ model: 'm', prompt: Array(65).fill('x'), n: 2 }, 'prompt', 'array_above_max_length', /128/],
    [{ ...base, best_of: 2 }, 'best_of', 'unsupported_value', /only 1/],
    [{ ...base, n: 0 }, 'n', 'integer_below_min_value', /n/],
    [{ ...base, n: 129 }, 'n', 'integer_above_max_value', /128/],
    [{ ...base, logprobs: 6 }, 'logprobs', 'integer_above_max_value', /5/],
    [{ ...base, stop: [1] }, 'stop[0]', 'invalid_type', /string/],
    [{ ...base, temperature: '1' }, 'temperature', 'invalid_type', /number/],
    [{ ...base, stream: 'true' }, 'stream', 'invalid_type', /boolean/],
    [{ ...base, echo: 1 }, 'echo', 'invalid_type', /boolean/],
    [[], null, 'invalid_type', /JSON object/],
  ])('%j', (body, param, code, message) => {
    const fault = faultOf(body)
    expect(fault).toMatchObject({ status: 400, type: 'invalid_request_error', param, code })
    expect(fault.message).toMatch(message)
  })
})

// ---- answers

const identity = { id: 'cmpl-1', created: 1_700_000_000, model: 'M' }
const usage = { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 }
const text = (response: string): Line => ({ response, done: false })

type Run = { lines: Line[]; reason: string | undefined }
const drive = (writer: Writer, runs: Run[]): string =>
  runs
    .map(
      ({ lines, reason }, run) =>
        lines.map(line => writer.line(run, line)).join('') + writer.endRun(run, reason),
    )
    .join('') + writer.end(usage)

const eventsIn = (stream: string): string[] =>
  stream
    .split('\n\n')
    .slice(0, -1)
    .map(event => {
      expect(event.startsWith('data: ')).toBe(true)
      return event.slice('data: '.length)
    })
const chunksIn = (stream: string): Completion[] => {
  const events = eventsIn(stream)
  expect(events.at(-1)).toBe('[DONE]')
  return events.slice(0, -1).map(event => JSON.parse(event) as Completion)
}

const headOf = (body: object) => ({ ...identity, prepared: prepare({ ...base, ...body }) })
const stream = (body: object, runs: Run[]) => chunksIn(drive(createCompletionStream(headOf(body)), runs))
const plain = (body: object, runs: Run[]): Completion =>
  JSON.parse(drive(createCompletionAnswer(headOf(body)), runs))

describe('what a client gets', () => {
  const run = { lines: [text('Hel'), text(''), text('lo'), { response: '', done: true }], reason: 'stop' }

  test('a plain answer', () => {
    expect(plain({}, [run])).toEqual({
      ...identity,
      object: 'text_completion',
      choices: [{ index: 0, text: 'Hello', logprobs: null, finish_reason: 'stop' }],
      usage,
    })
  })

  test('a stream: pieces as they come, never an empty one, one finish reason, usage last and only if asked', () => {
    const chunks = stream({ stream: true }, [run])
    expect(chunks.map(({ choices }) => choices)).toEqual([
      [{ index: 0, text: 'Hel', logprobs: null, finish_reason: null }],
      [{ index: 0, text: 'lo', logprobs: null, finish_reason: null }],
      [{ index: 0, text: '', logprobs: null, finish_reason: 'stop' }],
    ])
    for (const chunk of chunks) {
      expect(chunk).toMatchObject({ ...identity, object: 'text_completion' })
      expect(chunk).not.toHaveProperty('usage')
      expect(chunk).not.toHaveProperty('error')
    }
    expect(stream({ stream_options: { include_usage: true } }, [run]).at(-1)).toMatchObject({
      choices: [],
      usage,
    })
  })

  test("Ollama's reasons", () => {
    const reasons = [
      ['stop', 'stop'],
      ['length', 'length'],
      ['load', 'stop'],
      [undefined, 'stop'],
    ] as const
    for (const [reason, finish] of reasons)
      expect(plain({}, [{ lines: [], reason }]).choices[0]?.finish_reason).toBe(finish)
  })

  test('choices are numbered prompt by prompt and begin with their own prompt when it is echoed', () => {
    const runs = ['0', '1', '2', '3'].map(name => ({ lines: [text(name)], reason: 'stop' }))
    const body = { prompt: ['a', 'b'], n: 2, echo: true }
    expect(plain(body, runs).choices.map(({ index, text }) => [index, text])).toEqual([
      [0, 'a0'],
      [1, 'a1'],
      [2, 'b2'],
      [3, 'b3'],
    ])
    expect(stream(body, runs).map(({ choices: [choice] }) => `${choice?.index}${choice?.text}`)).toEqual([
      '0a',
      '00',
      '0',
      '1a',
      '11',
      '1',
      '2b',
      '22',
      '2',
      '3b',
      '33',
      '3',
    ])
  })

  test('an echoed prompt is sent even when no text follows', () => {
    const empty = { lines: [{ response: '', done: true }], reason: 'length' }
    expect(stream({ echo: true }, [empty]).map(({ choices }) => choices[0]?.text)).toEqual(['Once', ''])
  })

  test('a choice that never ran ends with length, or a client would wait for it', () => {
    const body = { n: 3 }
    expect(plain(body, [run]).choices.map(choice => choice.finish_reason)).toEqual([
      'stop',
      'length',
      'length',
    ])
    const finishes = stream(body, [run]).flatMap(({ choices }) =>
      choices.filter(choice => choice.finish_reason !== null),
    )
    expect(finishes.map(choice => [choice.index, choice.finish_reason])).toEqual([
      [0, 'stop'],
      [1, 'length'],
      [2, 'length'],
    ])
  })

  test('thinking is never shown as text', () => {
    const lines: Line[] = [{ response: '', thinking: 'hm' }, text('Yes')]
    expect(plain({}, [{ lines, reason: 'stop' }]).choices[0]?.text).toBe('Yes')
  })

  test('a broken answer is an error chunk without [DONE], or an error body', () => {
    const error = { error: { message: 'm', type: 'server_error', param: null, code: 'upstream_error' } }
    const streamed = createCompletionStream(headOf({}))
    streamed.line(0, text('Hel'))
    expect(streamed.fail(error)).toBe(`data: ${JSON.stringify(error)}\n\n`)
    const whole = createCompletionAnswer(headOf({}))
    expect(JSON.parse(whole.fail(error))).toEqual(error)
  })
})

describe('log probabilities in the legacy form', () => {
  const token = (name: string, logprob: number, top: [string, number][] = []) => ({
    token: name,
    logprob,
    bytes: [...new TextEncoder().encode(name)],
    top_logprobs: top.map(([one, value]) => ({ token: one, logprob: value })),
  })
  const lines: Line[] = [
    { response: '', thinking: 'hm', logprobs: [token('hm', -9)] },
    { response: 'Hé', logprobs: [token('Hé', -0.5, [['Hi', -0.1]])] },
    { response: '😀!', logprobs: [token('😀', -1, [['😀', -1]]), token('!', 0)] },
    { response: '', done: true },
  ]

  test('tokens, scores, alternatives with the chosen token, offsets in characters', () => {
    expect(plain({ logprobs: 1 }, [{ lines, reason: 'stop' }]).choices[0]?.logprobs).toEqual({
      tokens: ['Hé', '😀', '!'],
      token_logprobs: [-0.5, -1, 0],
      top_logprobs: [{ Hi: -0.1, Hé: -0.5 }, { '😀': -1 }, { '!': 0 }],
      text_offset: [0, 2, 3],
    })
  })

  test('offsets go on after an echoed prompt, and from chunk to chunk', () => {
    const body = { logprobs: 0, echo: true, prompt: '😀x' }
    expect(plain(body, [{ lines, reason: 'stop' }]).choices[0]?.logprobs?.text_offset).toEqual([2, 4, 5])
    const chunks = stream(body, [{ lines, reason: 'stop' }])
    expect(chunks.map(({ choices }) => choices[0]?.logprobs?.text_offset ?? [])).toEqual([
      [],
      [2],
      [4, 5],
      [],
    ])
  })

  test('a token named like a property of objects stays an own key', () => {
    const odd = [{ response: '__proto__', logprobs: [token('__proto__', -1)] }]
    const body = drive(createCompletionAnswer(headOf({ logprobs: 1 })), [{ lines: odd, reason: 'stop' }])
    expect(body).toContain('"top_logprobs":[{"__proto__":-1}]')
  })
})

test('the pieces of a stream, joined, are the plain answer', () => {
  const piece = fc.record({
    response: fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('', '\u2028', '\u0000', '\r\n', '😀')),
  })
  const run = fc.record({ lines: fc.array(piece), reason: fc.constantFrom('stop', 'length', undefined) })
  const runs = fc.array(run, { minLength: 4, maxLength: 4 })
  fc.assert(
    fc.property(runs, fc.boolean(), (given, echo) => {
      const body = { prompt: ['p\n\n1', 'p2'], n: 2, echo }
      const whole = plain(body, given).choices
      const chunks = stream(body, given).flatMap(({ choices }) => choices)
      for (const choice of whole) {
        const own = chunks.filter(({ index }) => index === choice.index)
        expect(own.map(({ text }) => text).join('')).toBe(choice.text)
        expect<unknown[]>(own.flatMap(({ finish_reason: reason }) => reason ?? [])).toEqual([
          choice.finish_reason,
        ])
        expect(own.slice(0, -1).every(({ text }) => text !== '')).toBe(true)
      }
    }),
  )
})

describe('recorded answers of a real Ollama', () => {
  const recorded = (name: string): Line[] =>
    readFileSync(new URL(`../fixtures/captures/${name}/response.ndjson`, import.meta.url), 'utf8')
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as Line)

  test.each([
    ['generate-hello-stream', 'Hello, world!\n'],
    ['generate-raw-stream', 'Hello, world!\n'],
    ['generate-think-stream', 'The answer is 42'],
  ])('%s', (name, expected) => {
    const run = { lines: recorded(name), reason: 'stop' }
    expect(plain({}, [run]).choices[0]?.text).toBe(expected)
    expect(
      stream({}, [run])
        .map(({ choices }) => choices[0]?.text)
        .join(''),
    ).toBe(expected)
  })
})
