/**
 * What an error text of Ollama's says of the request (ollama-api.md §2.5–2.7): rules tried one after another, each of
 * them an answer or nothing. Texts change from release to release, so a rule looks for few words.
 */
import { ApiError } from '../errors.ts'
import { toPlainReason, type UpstreamError } from './error-text.ts'

/** What is known of the request that failed. */
export type FaultContext = {
  /** As the client spelt it. */
  model: string
  /** A broken image is then a possible reason. */
  usesImages: boolean
  /** The field that holds the prompt; default `messages`. */
  promptParam?: 'messages' | 'prompt' | 'input'
  /** Of the model, where it is known, in tokens. */
  contextLength?: number | undefined
  /** Our estimate. */
  promptTokens?: number | undefined
}

export type Known = { error: UpstreamError; context: FaultContext; promptParam: string; cause: string }
type Rule = (known: Known) => ApiError | undefined

const MODEL_LENGTH_SHOWN = 100

export const upstream = (message: string, cause: string) => new ApiError('upstream', message, { cause })
const refuse = (param: string | null, code: string | null, message: string, cause: string) =>
  new ApiError('invalid_request', message, { param, code, cause })

export const isOverflow = ({ type, message }: UpstreamError) =>
  type === 'exceed_context_size_error' ||
  (/context (?:length|size|window)/i.test(message) && /exceed|longer|too long|larger/i.test(message))

/** In words that LangChain, LiteLLM, Continue and others look for (openai-api.md §3.6). */
export const contextExceeded = ({ error, context, promptParam, cause }: Known): ApiError => {
  const limit = error.contextTokens ?? context.contextLength
  const needed = error.promptTokens ?? context.promptTokens
  const size = limit === undefined ? 'exceeded by this request' : `${limit} tokens`
  const need =
    limit === undefined || needed === undefined || needed <= limit
      ? ''
      : `; this request needs about ${needed}`
  const remedy =
    promptParam === 'input' ? 'Shorten the input.' : `Shorten the ${promptParam} or lower max_tokens.`
  const message = `This model's maximum context length is ${size}${need}. ${remedy}`
  return refuse(promptParam, 'context_length_exceeded', message, cause)
}

export const modelNotFound = ({ context, cause }: Known) =>
  new ApiError(
    'model_not_found',
    `The model '${shown(context.model)}' does not exist or you do not have access to it.`,
    {
      param: 'model',
      cause,
    },
  )

export const shown = (model: string) =>
  model.length > MODEL_LENGTH_SHOWN ? `${model.slice(0, MODEL_LENGTH_SHOWN)}…` : model

/** A capability in Ollama's word → the field that asked for it. */
const capabilityParams = new Map([
  ['tools', 'tools'],
  ['thinking', 'reasoning_effort'],
  ['insert', 'suffix'],
])
/** Capabilities that are the endpoint itself. */
const endpoints = new Map([
  ['chat', 'chat completions'],
  ['generate', 'completions'],
  ['completion', 'completions'],
  ['embed', 'embeddings'],
  ['embedding', 'embeddings'],
  ['embeddings', 'embeddings'],
])

const lacksImages = ({ promptParam, cause }: Known) =>
  refuse(
    promptParam,
    'unsupported_value',
    `Unsupported value for '${promptParam}': this model does not take images.`,
    cause,
  )

const lackedCapability: Rule = known => {
  const { error, context, cause } = known
  if (/image input is not supported/i.test(error.message)) return lacksImages(known)
  for (const [, word = ''] of error.message.matchAll(/does not support (\w+)/gi)) {
    const name = word.toLowerCase()
    if (name === 'vision' || name === 'image' || name === 'images') return lacksImages(known)
    const param = capabilityParams.get(name)
    if (param !== undefined)
      return refuse(
        param,
        'unsupported_parameter',
        `Unsupported parameter: '${param}' is not supported with this model.`,
        cause,
      )
    const endpoint = endpoints.get(name)
    if (endpoint !== undefined)
      return refuse(
        'model',
        'unsupported_parameter',
        `The model '${shown(context.model)}' does not support ${endpoint}.`,
        cause,
      )
  }
  return undefined
}

const optionTypes = new Map([
  ['array', 'an array'],
  ['bool', 'a boolean'],
  ['boolean', 'a boolean'],
  ['string', 'a string'],
])

/** Ollama answers these with a 500, though the request is at fault. */
const wrongOptionType: Rule = ({ error, cause }) => {
  const [, option, type = ''] = /option "(\w+)" must be of type (\w+)/.exec(error.message) ?? []
  if (option === undefined) return undefined
  const param = option === 'num_predict' ? 'max_tokens' : option
  const expected = optionTypes.get(type) ?? (type.startsWith('int') ? 'an integer' : 'a number')
  return refuse(param, 'invalid_type', `Invalid type for '${param}': expected ${expected}.`, cause)
}

const badFormat: Rule = ({ error, cause }) => {
  if (!/invalid format|json schema|grammar|schema conversion/i.test(error.message)) return undefined
  const reason = toPlainReason(error.message) ?? 'the model server cannot turn it into a grammar'
  return refuse('response_format', 'invalid_value', `Invalid schema for response_format: ${reason}.`, cause)
}

const badImage: Rule = ({ error, context, promptParam, cause }) => {
  if (/illegal base64/i.test(error.message))
    return refuse(
      promptParam,
      'invalid_base64_image',
      `Invalid value for '${promptParam}': an image is not valid base64.`,
      cause,
    )
  if (!context.usesImages || !/image|webp|media|mtmd|clip/i.test(error.message)) return undefined
  return refuse(
    promptParam,
    'image_parse_error',
    `Invalid value for '${promptParam}': an image could not be decoded.`,
    cause,
  )
}

/** Ollama's text → the field at fault, OpenAI's code, and our sentence. */
const sentences: [text: RegExp, param: string, code: string, message: string][] = [
  [/model is required/, 'model', 'missing_required_parameter', "Missing required parameter: 'model'."],
  [/invalid think value/, 'reasoning_effort', 'invalid_value', "Invalid value for 'reasoning_effort'."],
  [
    /top_logprobs must be/,
    'top_logprobs',
    'invalid_value',
    "Invalid value for 'top_logprobs': it must be between 0 and 20.",
  ],
  [
    /logprobs is not supported/,
    'logprobs',
    'unsupported_parameter',
    "Unsupported parameter: 'logprobs' is not supported together with tools by this model.",
  ],
  [
    /incompatible with enable_thinking|assistant messages at the end/,
    'messages',
    'invalid_value',
    "Invalid value for 'messages': this model cannot go on from an assistant message; end with a user or tool message.",
  ],
  [
    /roles must alternate/,
    'messages',
    'invalid_value',
    "Invalid value for 'messages': with this model the roles must alternate between user and assistant.",
  ],
  [
    /invalid input type/,
    'input',
    'invalid_value',
    "Invalid value for 'input': expected a string or an array of strings.",
  ],
  [
    /no input provided/,
    'input',
    'invalid_value',
    "Invalid value for 'input': an empty string has no embedding.",
  ],
]
const knownSentence: Rule = ({ error, cause }) => {
  const found = sentences.find(([text]) => text.test(error.message))
  return found && refuse(found[1], found[2], found[3], cause)
}

const impossibleName: Rule = known =>
  /invalid model name|either :local or :cloud/.test(known.error.message) ? modelNotFound(known) : undefined

export const outOfMemory: Rule = ({ error, cause }) =>
  /out of memory|more system memory|insufficient memory|cudamalloc/i.test(error.message)
    ? upstream('The model server does not have enough memory to run this model.', cause)
    : undefined

export const failed = (cause: string) => upstream('The model server failed to run this request.', cause)

/** Fields of Ollama's requests that come from a field of the client's. */
const goFields: Record<string, string> = {
  messages: 'messages',
  tools: 'tools',
  format: 'response_format',
  think: 'reasoning_effort',
  prompt: 'prompt',
  suffix: 'suffix',
  input: 'input',
  dimensions: 'dimensions',
}

/**
 * A 400 we know nothing of is the request's fault as long as Ollama says so, and would be no better when repeated.
 * `/api/embed` alone answers 400 for its own failures too, unless it could not read the request.
 */
export const otherBadRequest = ({ error, promptParam, cause }: Known): ApiError => {
  const field = /Go struct field \w+\.(\w+)/.exec(error.message)?.[1]
  if (promptParam === 'input' && field === undefined) return failed(cause)
  const param = field === undefined ? null : (goFields[field] ?? null)
  const reason = error.isNested ? toPlainReason(error.message) : undefined
  const message = 'The model server did not accept this request'
  return refuse(param, null, reason === undefined ? `${message}.` : `${message}: ${reason}.`, cause)
}

const rules: Rule[] = [
  lackedCapability,
  wrongOptionType,
  badImage,
  badFormat,
  knownSentence,
  impossibleName,
  outOfMemory,
]

/** The answer that the text alone decides, whatever Ollama's status; undefined when it says nothing of the request. */
export const faultByText: Rule = known => {
  for (const rule of rules) {
    const answer = rule(known)
    if (answer !== undefined) return answer
  }
  return undefined
}
