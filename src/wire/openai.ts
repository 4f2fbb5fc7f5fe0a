/**
 * What clients of chat completions send and expect (openai-api §1, §2).
 *
 * The schema looks at the body's own fields and no deeper: messages and tools are read by the functions that
 * translate them, which name the exact field at fault where a zod union would say "invalid input", and walk each
 * once. Loose, for unknown fields are no fault; null means absent, since many SDKs write every field out.
 */
import { z } from 'zod'
import { createBodyParser } from './loose-body.ts'
import type { Usage } from './writer.ts'

/** As many as OpenAI takes; 10,000 messages are an accident or an attack. */
export const messagesMax = 2048
export const choicesMax = 128
const modelLengthMax = 256

const text = z.string().nullish()
const flag = z.boolean().nullish()
const object = z.looseObject({}).nullish()
const list = z.array(z.unknown()).nullish()
/** Not `z.int()`: 2⁶³−1 is a usual way to say "no limit" or to seed, and lies beyond JavaScript's safe integers. */
const integer = z.number().refine(Number.isInteger, { params: { expected: 'an integer' } })

const controlCharacter = /\p{Cc}/u

const isUsableName = (name: string) => name.length <= modelLengthMax && !controlCharacter.test(name)

/** The rule of `modelName`, for who needs no word on what is wrong. */
export const isModelName = (value: unknown): value is string =>
  typeof value === 'string' && value !== '' && isUsableName(value)

/** A model's name as Ollama may have it: `/`, `:` and dots are usual; an empty one counts as missing. */
export const modelName = z
  .string()
  .refine(name => name !== '', { params: { absent: true } })
  .refine(isUsableName, {
    error: `a model name has at most ${modelLengthMax} characters, none of them a control character`,
  })

/** The fields that completions and chat share, each by the same rule. */
export const sharedFields = {
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  max_tokens: integer.nullish(),
  n: integer.min(1).max(choicesMax).nullish(),
  stop: z.union([z.string(), z.array(z.string())]).nullish(),
  seed: integer.nullish(),
  logit_bias: object,
  stream: flag,
  stream_options: z.looseObject({ include_usage: flag, include_obfuscation: flag }).nullish(),
  user: text,
  /** Ollama's own extras; of these only sampling options pass. */
  options: object,
}

/** The body of `POST /v1/chat/completions`. */
export const chatRequest = z.looseObject({
  model: modelName,
  messages: z.array(z.unknown()).min(1).max(messagesMax),
  ...sharedFields,
  max_completion_tokens: integer.nullish(),
  logprobs: flag,
  top_logprobs: integer.min(0).max(20).nullish(),
  response_format: object,
  tools: list,
  tool_choice: z.unknown().optional(),
  parallel_tool_calls: flag,
  functions: list,
  function_call: z.unknown().optional(),
  reasoning_effort: text,
  verbosity: text,
  modalities: z.array(z.string()).nullish(),
  audio: object,
  prediction: object,
  service_tier: text,
  store: flag,
  metadata: object,
  safety_identifier: text,
  prompt_cache_key: text,
  prompt_cache_retention: text,
  prompt_cache_options: object,
  moderation: object,
  web_search_options: object,
  reasoning: z.unknown().optional(),
  think: z.unknown().optional(),
  format: z.unknown().optional(),
})
export type ChatRequest = z.infer<typeof chatRequest>

/** As it came: null stays null, unknown fields stay. @throws ApiError 400 */
export const parseChatRequest = createBodyParser(chatRequest)

export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter' | 'function_call'

export type TokenLogprob = {
  token: string
  logprob: number
  /** null where the text does not tell: a token that holds part of a character. */
  bytes: number[] | null
  top_logprobs: { token: string; logprob: number; bytes: number[] | null }[]
}
export type Logprobs = { content: TokenLogprob[]; refusal: null }

export type ToolCall =
  | { id: string; type: 'function'; function: { name: string; arguments: string } }
  | { id: string; type: 'custom'; custom: { name: string; input: string } }

export type AssistantMessage = {
  role: 'assistant'
  /** null when the answer is tool calls alone. */
  content: string | null
  refusal: null
  annotations: []
  reasoning_content?: string
  tool_calls?: ToolCall[]
  function_call?: { name: string; arguments: string }
}

export type ChatCompletion = {
  id: string
  object: 'chat.completion'
  /** Epoch seconds. */
  created: number
  model: string
  choices: {
    index: number
    message: AssistantMessage
    logprobs: Logprobs | null
    finish_reason: FinishReason
  }[]
  usage: Usage
  service_tier?: 'default'
}

export type Delta = {
  role?: 'assistant'
  content?: string | null
  reasoning_content?: string
  tool_calls?: (ToolCall & { index: number })[]
  function_call?: { name: string; arguments: string }
}

export type ChatCompletionChunk = {
  id: string
  object: 'chat.completion.chunk'
  created: number
  model: string
  service_tier?: 'default'
  choices: { index: number; delta: Delta; logprobs?: Logprobs; finish_reason: FinishReason | null }[]
  usage?: Usage
}
