/** Legacy completions on their way in: the request schema and the requests it becomes (openai-api.md §5.2). */
import { z } from 'zod'
import { invalid } from '../errors.ts'
import { toHeaderNames } from './chat-fields.ts'
import { missing, wrongType, wrongValue } from './invalid-request.ts'
import { createBodyParser } from './loose-body.ts'
import type { OllamaGenerateRequest } from './ollama.ts'
import { choicesMax, modelName, sharedFields } from './openai.ts'
import { ollamaSampling, openaiSampling, readSampling } from './sampling.ts'

const integer = z.number().refine(Number.isInteger, { params: { expected: 'an integer' } })

/** The body of `POST /v1/completions`. Loose, for unknown fields are no fault; null means absent. */
export const completionRequest = z.looseObject({
  model: modelName,
  /** Read by `toOllamaGenerate`, which can say what is wrong where a union of four types cannot. */
  prompt: z.unknown().optional(),
  ...sharedFields,
  suffix: z.string().nullish(),
  echo: z.boolean().nullish(),
  best_of: integer.min(0).max(20).nullish(),
  logprobs: integer.min(0).max(5).nullish(),
})
export type CompletionRequest = z.infer<typeof completionRequest>

/** As it came: null stays null, unknown fields stay. @throws ApiError 400 */
export const parseCompletionRequest = createBodyParser(completionRequest)

export type PreparedCompletion = {
  /** As the client spells it; answers echo it. */
  model: string
  /**
   * One per prompt, complete but for `options.num_predict` and per-run seeds. Each is run `choices` times, prompt by
   * prompt, as OpenAI numbers choices: run `r` is choice `r` of the answer, of prompt `floor(r / choices)`.
   */
  requests: OllamaGenerateRequest[]
  /** `n`: so many runs per prompt. */
  choices: number
  /** The client's own maximum of output tokens, for each run; null when it set none. */
  maxTokens: number | null
  stream: boolean
  includeUsage: boolean
  /** Whether each choice begins with its prompt. */
  echo: boolean
  /** For the header `x-ignored-parameters`. */
  ignored: string[]
}

/**
 * Ready-made fill-in-the-middle prompts, as editors send them: one special token of a code model, or a pair where
 * either alone may be ordinary text. They must go past the model's template, which would make a chat turn of them.
 */
const fimMarkers = [
  [/<[|｜]?(?:fim|code)[-_▁ ]?(?:prefix|suffix|middle|begin|hole|end)[|｜]?>/i],
  [/<PRE>/, /<SUF>/],
  [/\[PREFIX\]/, /\[SUFFIX\]/],
]
const isFillInTheMiddle = (prompt: string) =>
  fimMarkers.some(markers => markers.every(marker => marker.test(prompt)))

const effective = new Set([
  ...[
    'model',
    'prompt',
    'suffix',
    'echo',
    'logprobs',
    'n',
    'best_of',
    'max_tokens',
    'stream',
    'stream_options',
    'options',
  ],
  ...Object.keys(openaiSampling),
  ...Object.keys(ollamaSampling),
])

/** Null, '' and empty lists and objects ask for nothing, so nothing of them is ignored. */
const saysSomething = (value: unknown) =>
  value !== undefined &&
  value !== null &&
  value !== '' &&
  !(typeof value === 'object' && Object.keys(value).length === 0)

const readPrompts = (prompt: unknown): string[] => {
  if (prompt === undefined) throw missing('prompt')
  // Null is "begin a document" at OpenAI, and an empty prompt is as near to it as Ollama comes.
  if (prompt === null) return ['']
  if (typeof prompt === 'string') return [prompt]
  if (!Array.isArray(prompt)) throw wrongType('prompt', 'a string or an array of strings', prompt)
  if (prompt.length === 0) throw wrongValue('prompt', 'expected at least one element.', 'empty_array')
  return prompt.map((one: unknown, index) => {
    if (typeof one === 'string') return one
    if (typeof one === 'number' || Array.isArray(one))
      throw wrongValue(
        'prompt',
        "token arrays are not supported, the model's tokenizer is another one; send text.",
      )
    throw wrongType(`prompt[${index}]`, 'a string', one)
  })
}

/**
 * Pure. `max_tokens` absent sets no cap, where OpenAI stops at 16: users of Ollama expect whole answers. 0 and less
 * mean absent, as in chat. Thinking is switched off, for this dialect cannot show it and it would be billed unseen.
 *
 * @throws ApiError 400, e.g. for token arrays, `best_of` above 1, or more than 128 choices over all prompts.
 */
export const toOllamaGenerate = (body: CompletionRequest): PreparedCompletion => {
  const prompts = readPrompts(body.prompt)
  const choices = body.n ?? 1
  if (prompts.length * choices > choicesMax)
    throw wrongValue('prompt', `prompts times n may be at most ${choicesMax}.`, 'array_above_max_length')
  if ((body.best_of ?? 1) > 1)
    throw invalid('best_of', "Unsupported value for 'best_of': only 1 is supported.", 'unsupported_value')

  const ignored = Object.keys(body).filter(name => !effective.has(name) && saysSomething(body[name]))
  const options = readSampling(body, ignored)
  if (body.stream_options?.include_obfuscation === true) ignored.push('stream_options.include_obfuscation')
  const { suffix, logprobs, max_tokens: maxTokens } = body
  const isSuffixed = typeof suffix === 'string' && suffix !== ''

  const toRequest = (prompt: string): OllamaGenerateRequest => {
    const request: OllamaGenerateRequest = { model: body.model, stream: true, prompt, think: false }
    if (isSuffixed) request.suffix = suffix
    else if (isFillInTheMiddle(prompt)) request.raw = true
    if (Object.keys(options).length > 0) request.options = { ...options }
    if (typeof logprobs === 'number') {
      request.logprobs = true
      request.top_logprobs = logprobs
    }
    return request
  }

  return {
    model: body.model,
    requests: prompts.map(toRequest),
    choices,
    maxTokens: typeof maxTokens === 'number' && maxTokens > 0 ? maxTokens : null,
    stream: body.stream === true,
    includeUsage: body.stream_options?.include_usage === true,
    echo: body.echo === true,
    ignored: toHeaderNames(ignored),
  }
}

/** A JSON body → what Ollama is asked; the 400 of its first fault otherwise. */
export const readCompletion = (body: unknown): PreparedCompletion =>
  toOllamaGenerate(parseCompletionRequest(body))
