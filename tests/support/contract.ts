/**
 * What OpenAI's contract lets an answer hold, to the letter: an unknown field, a null in the wrong place or a missing
 * one fails. Fields that OpenAI has and we never send are not here.
 */
import { z } from 'zod'

const count = z.int().min(0)

export const usage = z
  .strictObject({
    prompt_tokens: count,
    completion_tokens: count,
    total_tokens: count,
    completion_tokens_details: z.strictObject({ reasoning_tokens: count }),
  })
  .refine(it => it.total_tokens === it.prompt_tokens + it.completion_tokens, 'the total is not the sum')
  .refine(
    it => it.completion_tokens_details.reasoning_tokens <= it.completion_tokens,
    'more reasoning than completion',
  )

const tokenShape = {
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(z.int().min(0).max(255)).nullable(),
}
const logprobs = z.strictObject({
  content: z
    .array(z.strictObject({ ...tokenShape, top_logprobs: z.array(z.strictObject(tokenShape)) }))
    .min(1),
  refusal: z.null(),
})

const jsonObjectText = z.string().refine(text => {
  const value: unknown = JSON.parse(text)
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}, 'arguments are no JSON object')

const functionCall = z.strictObject({
  id: z.string().min(1),
  type: z.literal('function'),
  function: z.strictObject({ name: z.string().min(1), arguments: jsonObjectText }),
})

const finishReason = z.enum(['stop', 'length', 'tool_calls'])
const identity = {
  id: z.string().regex(/^chatcmpl-\S{16,}$/),
  created: z.int().min(1_500_000_000).max(5_000_000_000),
  model: z.string().min(1),
}

export const chatCompletion = z.strictObject({
  ...identity,
  object: z.literal('chat.completion'),
  choices: z
    .array(
      z.strictObject({
        index: count,
        message: z.strictObject({
          role: z.literal('assistant'),
          content: z.string().nullable(),
          refusal: z.null(),
          annotations: z.tuple([]),
          reasoning_content: z.string().min(1).optional(),
          tool_calls: z.array(functionCall).min(1).optional(),
        }),
        logprobs: logprobs.nullable(),
        finish_reason: finishReason,
      }),
    )
    .min(1),
  usage,
})
export type ChatCompletion = z.infer<typeof chatCompletion>

export const chatChunk = z.strictObject({
  ...identity,
  object: z.literal('chat.completion.chunk'),
  choices: z.array(
    z.strictObject({
      index: count,
      delta: z.strictObject({
        role: z.literal('assistant').optional(),
        content: z.string().nullable().optional(),
        reasoning_content: z.string().min(1).optional(),
        tool_calls: z
          .array(functionCall.extend({ index: count }))
          .min(1)
          .optional(),
      }),
      logprobs: logprobs.nullable().optional(),
      finish_reason: finishReason.nullable(),
    }),
  ),
  usage: usage.nullable().optional(),
})
export type ChatChunk = z.infer<typeof chatChunk>

export const errorBody = z.strictObject({
  error: z.strictObject({
    message: z.string().min(8),
    type: z.enum(['invalid_request_error', 'requests', 'tokens', 'insufficient_quota', 'server_error']),
    param: z.string().nullable(),
    code: z.string().nullable(),
  }),
})
export type ErrorBody = z.infer<typeof errorBody>

/** An SSE body to the letter: comments of one line, `data:` events of one line, `[DONE]` last if at all. */
export const parseEvents = (text: string): { events: unknown[]; done: boolean } => {
  const events: unknown[] = []
  let done = false
  let rest = text
  while (rest !== '') {
    if (done) throw new Error(`something behind [DONE]: ${rest.slice(0, 100)}`)
    const comment = /^:[^\n]*\n/.exec(rest)
    const event = /^data: ([^\r\n\u0085\u2028\u2029]*)\n\n/.exec(rest)
    const found = comment ?? event
    if (found === null) throw new Error(`neither comment nor event: ${JSON.stringify(rest.slice(0, 200))}`)
    rest = rest.slice(found[0].length)
    const data = event?.[1]
    if (data === undefined) continue
    if (data === '[DONE]') done = true
    else events.push(JSON.parse(data))
  }
  return { events, done }
}

/**
 * The chunks of a good stream, each valid, and together what SDKs rely on: one identity, each choice begun once by its
 * role and ended once by its reason with nothing behind it, usage (if asked for) in a last chunk of its own.
 */
export const readChunks = (text: string, { usage: wanted }: { usage: boolean }): ChatChunk[] => {
  const { events, done } = parseEvents(text)
  if (!done) throw new Error(`no [DONE] in ${text.slice(-300)}`)
  const chunks = events.map(event => chatChunk.parse(event))
  const identities = new Set(chunks.map(({ id, created, model }) => JSON.stringify([id, created, model])))
  if (identities.size !== 1) throw new Error(`${identities.size} identities in one stream`)
  const begun = new Set<number>()
  const ended = new Set<number>()
  for (const [at, chunk] of chunks.entries()) {
    const isLast = at === chunks.length - 1
    if ((chunk.usage !== undefined && chunk.usage !== null) !== (wanted && isLast))
      throw new Error('usage at the wrong place')
    if ((chunk.choices.length === 0) !== (wanted && isLast)) throw new Error('a chunk without choices')
    for (const { index, delta, finish_reason } of chunk.choices) {
      if (ended.has(index)) throw new Error(`choice ${index} goes on behind its end`)
      if ((delta.role !== undefined) === begun.has(index)) throw new Error('a role in the wrong delta')
      if (delta.content === '' && begun.has(index)) throw new Error('an empty piece of content')
      begun.add(index)
      if (finish_reason !== null) ended.add(index)
    }
  }
  if (ended.size !== begun.size) throw new Error('a choice without an end')
  return chunks
}

/** What the deltas of one choice add up to, in the shape of a plain answer's choice. */
export const joinChunks = (chunks: readonly ChatChunk[], index = 0) => {
  const choices = chunks.flatMap(chunk => chunk.choices).filter(choice => choice.index === index)
  const deltas = choices.map(choice => choice.delta)
  const calls = deltas.flatMap(delta => delta.tool_calls ?? [])
  if (calls.some((call, at) => call.index !== at)) throw new Error('tool calls are not numbered in order')
  const tokens = choices.flatMap(choice => choice.logprobs?.content ?? [])
  return {
    content: deltas.map(delta => delta.content ?? '').join(''),
    reasoning: deltas.map(delta => delta.reasoning_content ?? '').join(''),
    calls: calls.map(call => ({
      name: call.function.name,
      arguments: JSON.parse(call.function.arguments) as unknown,
    })),
    tokens,
    finish_reason: choices.at(-1)?.finish_reason ?? null,
  }
}

/** The same of a plain answer. */
export const joinAnswer = ({ choices }: ChatCompletion, index = 0) => {
  const choice = choices[index]
  if (choice === undefined) throw new Error(`no choice ${index}`)
  const { message } = choice
  return {
    content: message.content ?? '',
    reasoning: message.reasoning_content ?? '',
    calls: (message.tool_calls ?? []).map(call => ({
      name: call.function.name,
      arguments: JSON.parse(call.function.arguments) as unknown,
    })),
    tokens: choice.logprobs?.content ?? [],
    finish_reason: choice.finish_reason,
  }
}
