import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import OpenAI from 'openai'
import OpenAI6 from 'openai-6'
import { z } from 'zod'
import { type AnswerHead, createChatAnswer, createChatStream } from '../../src/wire/chat-answer.ts'
import { createLineDecoder } from '../../src/wire/framing.ts'
import type { Line, OllamaToolCall } from '../../src/wire/ollama.ts'
import type { ChatCompletion, ChatCompletionChunk, Delta } from '../../src/wire/openai.ts'
import type { Writer } from '../../src/wire/writer.ts'
import { capturedBytes, capturedLines, chatAnswers } from './captures.ts'

const usage = { prompt_tokens: 12, completion_tokens: 3, total_tokens: 15 }

const createHead = (change: Partial<AnswerHead> = {}): AnswerHead => {
  let calls = 0
  return {
    id: 'chatcmpl-0123456789abcdefghij',
    created: 1_786_000_000,
    model: 'hf.co/org/name:Q4_K_M',
    choices: 1,
    includeUsage: false,
    logprobs: false,
    legacyFunctions: false,
    firstToolCallOnly: false,
    newToolCallId: () => `call_new${calls++}`,
    ...change,
  }
}

/** Runs of lines through a writer, each ended by the reason on its done line. */
const write = (writer: Writer, ...runs: Line[][]): string => {
  let text = ''
  for (const [run, lines] of runs.entries()) {
    for (const line of lines) text += writer.line(run, line)
    text += writer.endRun(run, lines.at(-1)?.done_reason)
  }
  return text + writer.end(usage)
}

const tokenLogprob = z.strictObject({
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(z.int().min(0).max(255)).nullable(),
})
const logprobs = z.strictObject({
  content: z.array(tokenLogprob.extend({ top_logprobs: z.array(tokenLogprob) })).min(1),
  refusal: z.null(),
})
const callBody = z.strictObject({ name: z.string().min(1), arguments: z.string() })
const call = z.discriminatedUnion('type', [
  z.strictObject({ id: z.string().min(1), type: z.literal('function'), function: callBody }),
  z.strictObject({
    id: z.string().min(1),
    type: z.literal('custom'),
    custom: z.strictObject({ name: z.string().min(1), input: z.string() }),
  }),
])
const indexedCall = z.discriminatedUnion(
  'type',
  call.options.map(option => option.extend({ index: z.int().min(0) })) as never,
)
const finishReason = z.enum(['stop', 'length', 'tool_calls', 'content_filter', 'function_call'])
const usageShape = z.strictObject({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_tokens: z.int(),
  completion_tokens_details: z.strictObject({ reasoning_tokens: z.int() }).optional(),
})
const identity = {
  id: z.string().regex(/^chatcmpl-.{20,}$/),
  created: z.int().max(9_999_999_999),
  model: z.string().min(1),
  service_tier: z.literal('default').optional(),
}
const chunkShape = z.strictObject({
  ...identity,
  object: z.literal('chat.completion.chunk'),
  choices: z
    .array(
      z.strictObject({
        index: z.int().min(0),
        delta: z.strictObject({
          role: z.literal('assistant').optional(),
          content: z.string().min(1).nullish(),
          reasoning_content: z.string().min(1).optional(),
          tool_calls: z.array(indexedCall).min(1).optional(),
          function_call: callBody.optional(),
        }),
        logprobs: logprobs.optional(),
        finish_reason: finishReason.nullable(),
      }),
    )
    .max(1),
  usage: usageShape.optional(),
})
const completionShape = z.strictObject({
  ...identity,
  object: z.literal('chat.completion'),
  choices: z
    .array(
      z.strictObject({
        index: z.int().min(0),
        message: z.strictObject({
          role: z.literal('assistant'),
          content: z.string().nullable(),
          refusal: z.null(),
          annotations: z.array(z.never()),
          reasoning_content: z.string().min(1).optional(),
          tool_calls: z.array(call).min(1).optional(),
          function_call: callBody.optional(),
        }),
        logprobs: logprobs.nullable(),
        finish_reason: finishReason,
      }),
    )
    .min(1),
  usage: usageShape,
})

/** The chunks of a stream, each held against the contract; the frames around them too. */
const chunksOf = (sse: string): ChatCompletionChunk[] => {
  expect(sse.endsWith('data: [DONE]\n\n')).toBe(true)
  const events = sse.slice(0, -'data: [DONE]\n\n'.length).split('\n\n').slice(0, -1)
  return events.map(event => {
    expect(event.startsWith('data: {')).toBe(true)
    const chunk = JSON.parse(event.slice('data: '.length))
    chunkShape.parse(chunk)
    return chunk
  })
}

/** Puts a stream's deltas together as an SDK does, and checks what SDKs rely on, choice by choice. */
const assemble = (chunks: ChatCompletionChunk[], choices: number) => {
  expect(new Set(chunks.map(({ id, created, model }) => `${id} ${created} ${model}`)).size).toBe(1)
  return Array.from({ length: choices }, (_, index) => {
    const own = chunks.flatMap(chunk => chunk.choices.filter(choice => choice.index === index))
    expect(own.map(choice => choice.delta.role !== undefined)).toEqual(
      own.map((_, position) => position === 0),
    )
    expect(own.map(choice => choice.finish_reason !== null)).toEqual(
      own.map((_, at) => at === own.length - 1),
    )
    const calls = own.flatMap(choice => choice.delta.tool_calls ?? [])
    expect(calls.map(one => one.index)).toEqual(calls.map((_, position) => position))
    const texts = (field: 'content' | 'reasoning_content') =>
      own.map(choice => choice.delta[field] ?? '').join('')
    const functionCall = own.map(choice => choice.delta.function_call).find(one => one !== undefined)
    const shown = own.flatMap(choice => choice.logprobs?.content ?? [])
    const content = texts('content')
    return {
      index,
      message: {
        role: 'assistant' as const,
        content: content === '' && (calls.length > 0 || functionCall !== undefined) ? null : content,
        refusal: null,
        annotations: [],
        ...(texts('reasoning_content') === '' ? {} : { reasoning_content: texts('reasoning_content') }),
        ...(functionCall === undefined ? {} : { function_call: functionCall }),
        ...(calls.length > 0 ? { tool_calls: calls.map(({ index: _, ...one }) => one) } : {}),
      },
      logprobs: shown.length > 0 ? { content: shown, refusal: null } : null,
      finish_reason: own.at(-1)?.finish_reason,
    }
  })
}

const completionOf = (head: AnswerHead, ...runs: Line[][]): ChatCompletion => {
  const completion = JSON.parse(write(createChatAnswer(head), ...runs))
  completionShape.parse(completion)
  return completion
}

const streamed = (change: Partial<AnswerHead>, ...runs: Line[][]) =>
  chunksOf(write(createChatStream(createHead(change)), ...runs))

const deltas = (change: Partial<AnswerHead>, lines: Line[]): Delta[] =>
  streamed(change, lines).flatMap(chunk => chunk.choices.map(choice => choice.delta))

const say = (content: string): Line => ({ message: { role: 'assistant', content }, done: false })
const think = (thinking: string): Line => ({
  message: { role: 'assistant', content: '', thinking },
  done: false,
})
const ask = (...calls: OllamaToolCall[]): Line => ({
  message: { content: '', tool_calls: calls },
  done: false,
})
const done = (reason?: string): Line => ({
  message: { role: 'assistant', content: '' },
  done: true,
  ...(reason === undefined ? {} : { done_reason: reason }),
})
const weather = (city: string, id?: string): OllamaToolCall => ({
  ...(id === undefined ? {} : { id }),
  function: { index: 0, name: 'get_weather', arguments: { city } },
})

describe('recorded answers of a real Ollama', () => {
  const files = chatAnswers()

  test('are there', () => expect(files.length).toBeGreaterThan(60))

  test('say the same streamed and whole, every chunk and object by the contract', () => {
    for (const file of files)
      for (const change of [{}, { logprobs: true }, { firstToolCallOnly: true }, { legacyFunctions: true }]) {
        const lines = capturedLines(file)
        const whole = completionOf(createHead(change), lines)
        expect(assemble(streamed({ ...change, includeUsage: true }, lines), 1)).toEqual(whole.choices)
      }
  })

  test('give the same events however their bytes are split', () => {
    const fraction = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 12 })
    fc.assert(
      fc.property(fc.constantFrom(...files), fraction, (file, fractions) => {
        const bytes = capturedBytes(file)
        const places = fractions.map(one => Math.floor(one * bytes.length)).sort((a, b) => a - b)
        const decoder = createLineDecoder({ lineBytesMax: 1 << 20 })
        const lines = [0, ...places].flatMap((start, index) =>
          decoder.push(bytes.subarray(start, places[index] ?? bytes.length)),
        )
        lines.push(...decoder.end())
        const settings = { logprobs: true, includeUsage: true }
        expect(write(createChatStream(createHead(settings)), lines)).toBe(
          write(createChatStream(createHead(settings)), capturedLines(file)),
        )
      }),
    )
  })

  const ends: [file: string, finish: string, content: string | null][] = [
    ['chat-hello-stream/response.ndjson', 'stop', 'Hello, world!'],
    ['chat-hello/response.json', 'stop', 'Hello, world!'],
    ['chat-empty-stream/response.ndjson', 'stop', ''],
    ['chat-empty/response.json', 'stop', ''],
    ['chat-length-stream/response.ndjson', 'length', 'w0 w1 w2 w3 w4 w5 w6'],
    ['chat-tool-stream/response.ndjson', 'tool_calls', null],
    ['chat-tool/response.json', 'tool_calls', null],
    ['chat-harmony-tool-stream/response.ndjson', 'tool_calls', null],
    ['chat-tool-tagged-stream/response.ndjson', 'tool_calls', 'I will look.'],
    ['chat-think-length-stream/response.ndjson', 'length', ''],
    ['chat-load/response.json', 'stop', ''],
    ['chat-repetition-guard-stream/response.ndjson', 'stop', 'again again'],
  ]
  for (const [file, finish, content] of ends)
    test(`${file} ends with ${finish}`, () => {
      const [choice] = completionOf(createHead(), capturedLines(file)).choices
      expect(choice?.finish_reason as string).toBe(finish)
      if (content === null) expect(choice?.message.content).toBeNull()
      else expect(choice?.message.content?.trim()).toStartWith(content)
      if (content === '') expect(choice?.message.content).toBe('')
    })

  test('thinking comes as reasoning_content alone, before the content', () => {
    const pieces = deltas({}, capturedLines('chat-think-true-stream/response.ndjson'))
    const kinds = pieces.map(delta =>
      'reasoning_content' in delta ? 'reasoning' : 'content' in delta ? 'content' : '',
    )
    expect(kinds.indexOf('content')).toBeGreaterThan(kinds.lastIndexOf('reasoning'))
    expect(kinds[0]).toBe('reasoning')
    expect(pieces.some(delta => 'reasoning' in delta || 'thinking' in delta)).toBe(false)
  })

  test('two calls keep their ids, and count up', () => {
    const calls = deltas({}, capturedLines('chat-tool-double-stream/response.ndjson')).flatMap(
      d => d.tool_calls ?? [],
    )
    expect(calls).toEqual([
      {
        index: 0,
        id: 'call_atuxqg9t',
        type: 'function',
        function: { name: 'get_weather', arguments: '{"city":"Oslo"}' },
      },
      {
        index: 1,
        id: 'call_rrfsrps6',
        type: 'function',
        function: { name: 'get_weather', arguments: '{"city":"Rome"}' },
      },
    ])
  })
})

describe('a stream through the SDKs', () => {
  const answering = (sse: string) => ({
    apiKey: 'sk-test',
    maxRetries: 0,
    fetch: async () => new Response(sse, { headers: { 'content-type': 'text/event-stream; charset=utf-8' } }),
  })
  /** Both are called in the same way; their types share no call signature. */
  const clients = (sse: string): OpenAI[] => [
    new OpenAI(answering(sse)),
    new OpenAI6(answering(sse)) as unknown as OpenAI,
  ]
  const params = { model: 'm', messages: [{ role: 'user' as const, content: 'x' }] }

  test('both newest majors of the SDK assemble every recorded answer to the whole one', async () => {
    for (const file of chatAnswers()) {
      const lines = capturedLines(file)
      const sse = write(createChatStream(createHead({ includeUsage: true, logprobs: true })), lines)
      const [whole] = completionOf(createHead({ logprobs: true }), lines).choices
      for (const client of clients(sse)) {
        const final = await client.chat.completions.stream(params).finalChatCompletion()
        const [choice] = final.choices
        expect(choice?.message.content ?? '').toBe(whole?.message.content ?? '')
        expect(choice?.finish_reason).toBe(whole?.finish_reason as never)
        const calls = choice?.message.tool_calls?.map(one =>
          'function' in one ? one.function.arguments : '',
        )
        expect(calls).toEqual(
          whole?.message.tool_calls?.map(one => ('function' in one ? one.function.arguments : '')),
        )
        expect(final.usage?.total_tokens).toBe(usage.total_tokens)
      }
    }
  })

  test('an error chunk raises, with its code', async () => {
    const writer = createChatStream(createHead())
    const error = { message: 'Ollama broke off.', type: 'server_error', param: null, code: 'upstream_error' }
    const sse = writer.line(0, say('Hel')) + writer.fail({ error })
    expect(sse).not.toContain('[DONE]')
    for (const client of clients(sse)) {
      const read = async () => {
        for await (const _ of await client.chat.completions.create({ ...params, stream: true }));
      }
      await expect(read()).rejects.toMatchObject({ code: 'upstream_error' })
    }
  })
})

describe('text', () => {
  /** The same events without the prepared prefixes: what the fast path must equal byte for byte. */
  const plainEvents = (head: AnswerHead, lines: Line[]): string => {
    let role: object = { role: 'assistant' }
    const event = (delta: object, finish: string | null): string => {
      const { id, created, model } = head
      const chunk = {
        id,
        object: 'chat.completion.chunk',
        created,
        model,
        choices: [{ index: 0, delta: { ...role, ...delta }, finish_reason: finish }],
      }
      role = {}
      const json = JSON.stringify(chunk)
        .replaceAll('\u0085', '\\u0085')
        .replaceAll('\u2028', '\\u2028')
        .replaceAll('\u2029', '\\u2029')
      return `data: ${json}\n\n`
    }
    let events = ''
    for (const { message } of lines) {
      if (message?.thinking) events += event({ reasoning_content: message.thinking }, null)
      if (message?.content) events += event({ content: message.content }, null)
    }
    return `${events}${event({}, 'stop')}data: [DONE]\n\n`
  }

  test('of any kind takes the fast path to the bytes of the plain one', () => {
    const piece = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom(
        '',
        '\u2028',
        '\u2029',
        '\u0085',
        '\0',
        '\r\n',
        '"',
        '\\',
        '\ud83d',
        '</script>',
        'ü',
        '🦙',
      ),
    )
    const line = fc.record({ content: piece, thinking: fc.option(piece, { nil: undefined }) }).map(
      ({ content, thinking }): Line => ({
        message: thinking === undefined ? { content } : { content, thinking },
      }),
    )
    const model = fc.constantFrom('m', 'a"b\\c', 'x\u2028y')
    fc.assert(
      fc.property(fc.array(line), model, (lines, name) => {
        const head = createHead({ model: name })
        expect(write(createChatStream(head), [...lines, done('stop')])).toBe(plainEvents(head, lines))
      }),
      { numRuns: 500 },
    )
  })

  test('of one megabyte comes through whole', () => {
    const content = 'ü\u2028\0"'.repeat(250_000)
    const [choice] = assemble(streamed({}, [say(content), done('stop')]), 1)
    expect(choice?.message.content).toBe(content)
  })

  test('that is empty makes no delta', () => {
    expect(deltas({}, [say(''), say('a'), say(''), done('stop')])).toEqual([
      { role: 'assistant', content: 'a' },
      {},
    ])
  })

  test('fields of wrong types say nothing rather than break the answer', () => {
    const broken = [
      { message: null },
      { message: { content: 5, thinking: {}, tool_calls: 'x' } },
      { message: { content: '', tool_calls: [null, {}, { function: {} }] } },
      { message: { content: 'ok' }, logprobs: {} },
    ] as unknown as Line[]
    expect(deltas({ logprobs: true }, [...broken, done('stop')])).toEqual([
      { role: 'assistant', content: 'ok' },
      {},
    ])
  })
})

describe('endings', () => {
  const reasonOf = (change: Partial<AnswerHead>, lines: Line[]) => {
    const whole = completionOf(createHead(change), lines).choices[0]?.finish_reason
    expect(streamed(change, lines).at(-1)?.choices[0]?.finish_reason).toBe(whole as never)
    return whole
  }

  test('an unknown or absent reason is stop', () => {
    for (const reason of [undefined, 'stop', '', 'load', 'unload', 'other'])
      expect(reasonOf({}, [say('x'), done(reason)])).toBe('stop')
  })

  test('a limit is length, also after calls', () => {
    expect(reasonOf({}, [say('x'), done('length')])).toBe('length')
    expect(reasonOf({}, [ask(weather('Oslo')), done('length')])).toBe('length')
  })

  test('calls are tool_calls, also after text, or function_call for a legacy client', () => {
    expect(reasonOf({}, [say('Let me look.'), ask(weather('Oslo')), done('stop')])).toBe('tool_calls')
    expect(reasonOf({ legacyFunctions: true }, [ask(weather('Oslo')), done('stop')])).toBe('function_call')
  })

  test('a run cut by a limit ends once, however often it is ended', () => {
    const writer = createChatStream(createHead())
    const sse =
      writer.line(0, say('x')) + writer.endRun(0, 'length') + writer.endRun(0, 'stop') + writer.end(usage)
    expect(chunksOf(sse).map(chunk => chunk.choices[0]?.finish_reason)).toEqual([null, 'length'])
  })
})

describe('usage', () => {
  test('is the last chunk, without choices, when it was asked for', () => {
    const chunks = streamed({ includeUsage: true }, [say('x'), done('stop')])
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage })
    expect(chunks.slice(0, -1).some(chunk => 'usage' in chunk)).toBe(false)
  })

  test('is not in a stream that did not ask, and always in a whole answer', () => {
    expect(streamed({}, [say('x'), done('stop')]).some(chunk => 'usage' in chunk)).toBe(false)
    expect(completionOf(createHead(), [say('x'), done('stop')]).usage).toEqual(usage)
  })
})

describe('several choices', () => {
  const runs = [
    [say('a'), ask(weather('Oslo', 'call_1')), done('stop')],
    [think('hm'), say('b'), done('length')],
    [done('stop')],
  ]

  test('each have their own role, calls from index 0, and finish_reason', () => {
    const whole = completionOf(createHead({ choices: 3 }), ...runs)
    expect(whole.choices.map(choice => choice.finish_reason)).toEqual(['tool_calls', 'length', 'stop'])
    expect(assemble(streamed({ choices: 3 }, ...runs), 3)).toEqual(whole.choices)
  })

  test('that never ran are ended with length, for an SDK waits for each', () => {
    const whole = completionOf(createHead({ choices: 3 }), [say('a'), done('length')])
    expect(whole.choices.map(choice => choice.finish_reason)).toEqual(['length', 'length', 'length'])
    expect(assemble(streamed({ choices: 3 }, [say('a'), done('length')]), 3)).toEqual(whole.choices)
  })
})

describe('tool calls', () => {
  const callsOf = (change: Partial<AnswerHead>, lines: Line[]) =>
    completionOf(createHead(change), lines).choices[0]?.message.tool_calls ?? []

  test('without an id, or with one seen before, get one of their own', () => {
    const ids = callsOf({}, [ask(weather('a'), weather('b', 'x')), ask(weather('c', 'x')), done('stop')]).map(
      c => c.id,
    )
    expect(ids).toEqual(['call_new0', 'x', 'call_new1'])
  })

  test('after the first are dropped when the client takes one', () => {
    const lines = [ask(weather('a', '1'), weather('b', '2')), ask(weather('c', '3')), done('stop')]
    expect(callsOf({ firstToolCallOnly: true }, lines).map(c => c.id)).toEqual(['1'])
    expect(
      deltas({ firstToolCallOnly: true }, lines)
        .flatMap(d => d.tool_calls ?? [])
        .map(c => c.id),
    ).toEqual(['1'])
  })

  test('without arguments have an empty object of them', () => {
    const bare = { function: { name: 'now' } } as unknown as OllamaToolCall
    expect(callsOf({}, [ask(bare), done('stop')])).toMatchObject([
      { function: { name: 'now', arguments: '{}' } },
    ])
  })

  test('of a custom tool carry its text', () => {
    const patch: OllamaToolCall = { id: '1', function: { name: 'patch', arguments: { input: '*** begin' } } }
    expect(callsOf({ customTools: new Set(['patch']) }, [ask(patch), done('stop')])).toEqual([
      { id: '1', type: 'custom', custom: { name: 'patch', input: '*** begin' } },
    ])
  })

  test('of a legacy client come as function_call', () => {
    const [choice] = completionOf(createHead({ legacyFunctions: true }), [
      ask(weather('Oslo')),
      done('stop'),
    ]).choices
    expect(choice?.message.function_call).toEqual({ name: 'get_weather', arguments: '{"city":"Oslo"}' })
    expect(choice?.message.tool_calls).toBeUndefined()
  })
})

describe('log probabilities', () => {
  const shown = (lines: Line[]) =>
    completionOf(createHead({ logprobs: true }), lines).choices[0]?.logprobs?.content

  test('are those of the content, and their bytes are its bytes', () => {
    for (const file of [
      'chat-logprobs-stream',
      'chat-logprobs-utf8-stream',
      'chat-harmony-logprobs-stream',
    ]) {
      const lines = capturedLines(`${file}/response.ndjson`)
      const content = lines.map(line => line.message?.content ?? '').join('')
      const bytes = shown(lines)?.flatMap(token => token.bytes ?? [])
      expect(new TextDecoder().decode(Uint8Array.from(bytes ?? []))).toBe(content)
    }
  })

  test('of a split character have the bytes Ollama lost', () => {
    const tokens = shown(capturedLines('chat-logprobs-utf8-stream/response.ndjson'))
    expect(tokens?.slice(2, 4).map(token => token.bytes)).toEqual([
      [0x20, 0xf0, 0x9f],
      [0xa6, 0x99],
    ])
  })

  test('of part of a character that does not line up have no bytes rather than wrong ones', () => {
    const entry = { token: '\uFFFD', logprob: -1, bytes: [239, 191, 189] }
    const line: Line = { ...say('🦙'), logprobs: [entry, { token: 'x', logprob: 0 }] }
    expect(shown([line, done('stop')])?.map(token => token.bytes)).toEqual([null, [120]])
  })

  test('of thinking, tags and tool calls are not shown', () => {
    expect(shown(capturedLines('chat-logprobs-tool-stream/response.ndjson'))).toBeUndefined()
    const tokens = shown(capturedLines('chat-harmony-logprobs-stream/response.ndjson'))?.map(
      token => token.token,
    )
    expect(tokens?.some(token => token.includes('<|'))).toBe(false)
  })

  test('of text that a parser kept back come with that text', () => {
    const held: Line = { ...say(''), logprobs: [{ token: '<b', logprob: -1 }] }
    const told: Line = { ...say('<bold'), logprobs: [{ token: 'old', logprob: -2 }] }
    expect(shown([held, told, done('stop')])?.map(token => token.token)).toEqual(['<b', 'old'])
  })

  test('have top_logprobs always, [] when none were asked for', () => {
    expect(
      shown(capturedLines('chat-logprobs-stream/response.ndjson'))?.every(t => Array.isArray(t.top_logprobs)),
    ).toBe(true)
    expect(
      shown(capturedLines('chat-top-logprobs-stream/response.ndjson'))?.[0]?.top_logprobs.length,
    ).toBeGreaterThan(0)
  })

  test('are not shown to who did not ask', () => {
    const lines = capturedLines('chat-logprobs-stream/response.ndjson')
    expect(completionOf(createHead(), lines).choices[0]?.logprobs).toBeNull()
    expect(streamed({}, lines).some(chunk => chunk.choices.some(choice => 'logprobs' in choice))).toBe(false)
  })
})

test('a service tier that was named is answered', () => {
  expect(completionOf(createHead({ serviceTier: true }), [done('stop')]).service_tier).toBe('default')
  expect(streamed({ serviceTier: true }, [done('stop')])[0]?.service_tier).toBe('default')
  expect(completionOf(createHead(), [done('stop')])).not.toHaveProperty('service_tier')
})
