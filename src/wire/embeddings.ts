/** Embeddings, in and out (openai-api.md §5.3, ollama-api.md §1.6). */
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { toHeaderNames } from './chat-fields.ts'
import { isObject, missing, wrongType, wrongValue } from './invalid-request.ts'
import { createBodyParser } from './loose-body.ts'
import type { OllamaEmbedRequest } from './ollama.ts'
import { modelName } from './openai.ts'

const inputsMax = 2048

/** The body of `POST /v1/embeddings`. Loose, for unknown fields are no fault; null means absent. */
export const embeddingRequest = z.looseObject({
  model: modelName,
  /** Read by `toOllamaEmbed`, which can say what is wrong where a union of four types cannot. */
  input: z.unknown().optional(),
  encoding_format: z.enum(['float', 'base64']).nullish(),
  dimensions: z
    .number()
    .refine(Number.isInteger, { params: { expected: 'an integer' } })
    .min(1)
    .nullish(),
  user: z.string().nullish(),
})
export type EmbeddingRequest = z.infer<typeof embeddingRequest>

/** As it came: null stays null, unknown fields stay. @throws ApiError 400 */
export const parseEmbeddingRequest = createBodyParser(embeddingRequest)

const readText = (text: unknown, param: string): string => {
  if (typeof text === 'number' || Array.isArray(text))
    throw wrongValue(
      'input',
      "token arrays are not supported, the model's tokenizer is another one; send text. With LangChain, set check_embedding_ctx_length=False.",
    )
  if (typeof text !== 'string') throw wrongType(param, 'a string', text)
  // Ollama answers a lone '' without a vector, and fails a whole batch for one of many.
  if (text === '') throw wrongValue(param, 'an empty string has no embedding.')
  return text
}

const readInput = (input: unknown): string[] => {
  if (input === undefined || input === null) throw missing('input')
  if (!Array.isArray(input)) {
    if (typeof input !== 'string') throw wrongType('input', 'a string or an array of strings', input)
    return [readText(input, 'input')]
  }
  if (input.length === 0) throw wrongValue('input', 'expected at least one element.', 'empty_array')
  if (input.length > inputsMax)
    throw wrongValue('input', `expected at most ${inputsMax} elements.`, 'array_above_max_length')
  return input.map((one: unknown, index) => readText(one, `input[${index}]`))
}

const effective = new Set(['model', 'input', 'encoding_format', 'dimensions'])

const saysSomething = (value: unknown) => value !== undefined && value !== null && value !== ''

export type PreparedEmbedding = {
  request: OllamaEmbedRequest
  encoding: 'float' | 'base64'
  /** For the header `x-ignored-parameters`. */
  ignored: string[]
}

/** Pure. @throws ApiError 400, e.g. for token arrays and for empty text. */
export const toOllamaEmbed = (body: EmbeddingRequest): PreparedEmbedding => {
  const request: OllamaEmbedRequest = { model: body.model, input: readInput(body.input) }
  if (typeof body.dimensions === 'number') request.dimensions = body.dimensions
  const ignored = Object.keys(body).filter(name => !effective.has(name) && saysSomething(body[name]))
  return { request, encoding: body.encoding_format ?? 'float', ignored: toHeaderNames(ignored) }
}

const isVector = (value: unknown): value is number[] =>
  Array.isArray(value) && value.length > 0 && value.every(one => typeof one === 'number')

/** A JSON body → what Ollama is asked; the 400 of its first fault otherwise. */
export const readEmbedding = (body: unknown): PreparedEmbedding => toOllamaEmbed(parseEmbeddingRequest(body))

/** Ollama's answer to `/api/embed`, checked: one vector per input. @throws ApiError `upstream` */
export const parseEmbedAnswer = (answer: unknown, inputs: number): { embeddings: number[][] } => {
  const { embeddings } = isObject(answer) ? answer : {}
  if (!Array.isArray(embeddings) || embeddings.length !== inputs || !embeddings.every(isVector))
    throw new ApiError('upstream', 'The model server did not return an embedding for each input.')
  return { embeddings }
}

type EmbeddingList = {
  object: 'list'
  data: { object: 'embedding'; index: number; embedding: number[] | string }[]
  model: string
  usage: { prompt_tokens: number; total_tokens: number }
}

/** Little-endian float32, whatever the machine's own order. */
const toBase64 = (vector: number[]): string => {
  const bytes = new Uint8Array(vector.length * 4)
  const view = new DataView(bytes.buffer)
  for (const [index, value] of vector.entries()) view.setFloat32(index * 4, value, true)
  return bytes.toBase64()
}

/** OpenAI's list, in the order of the inputs. `model` as the client spelt it; `promptTokens` as on the bill. */
export const toEmbeddingList = (
  { embeddings }: { embeddings: number[][] },
  {
    model,
    encoding,
    promptTokens,
  }: { model: string; encoding: PreparedEmbedding['encoding']; promptTokens: number },
): EmbeddingList => ({
  object: 'list',
  data: embeddings.map((vector, index) => ({
    object: 'embedding',
    index,
    embedding: encoding === 'base64' ? toBase64(vector) : vector,
  })),
  model,
  usage: { prompt_tokens: promptTokens, total_tokens: promptTokens },
})
