/**
 * A chat request → Ollama's `/api/chat`. Presence decides, never truthiness: 0, false and '' are meaningful. What
 * was not sent stays absent, so that the model's own defaults hold; nothing of a client's is forwarded unread.
 */
import { invalid } from '../errors.ts'
import { ignoredFields, toHeaderNames } from './chat-fields.ts'
import type { ImageRef, InlineImage } from './images.ts'
import { isObject, missing, wrongType, wrongValue } from './invalid-request.ts'
import { deeperThan, depthMax } from './json-depth.ts'
import { readMessages } from './messages.ts'
import type { OllamaChatRequest } from './ollama.ts'
import type { ChatRequest } from './openai.ts'
import { readSampling } from './sampling.ts'
import { readTools, toolsUnsupported } from './tools.ts'

export type PreparedChat = {
  /** As the client spells it; answers echo it. */
  model: string
  /** Complete but for `options.num_predict`, per-run seeds, and the bytes of `images`. */
  request: OllamaChatRequest
  /** To be fetched, and put as base64 in their places in `request.messages`, which hold '' until then. */
  images: ImageRef[]
  /** In their places already; their type and size are still to be checked. */
  inlineImages: InlineImage[]
  /** The client's own maximum of output tokens; null when it set none. */
  maxTokens: number | null
  /** `n`: so many runs. */
  choices: number
  stream: boolean
  includeUsage: boolean
  /** For the header `x-ignored-parameters`: safe characters only, bounded in number and length. */
  ignored: string[]
  legacyFunctions: boolean
  firstToolCallOnly: boolean
  customTools: ReadonlySet<string>
  /** The client named a service tier, so the answer names one. */
  serviceTier: boolean
  uses: { tools: boolean; images: boolean; thinking: boolean }
  /** The field that `think` came from; null when it was not asked for. */
  thinkField: string | null
}

type Think = NonNullable<OllamaChatRequest['think']>

/** Efforts as Ollama's levels; a model with a plain switch takes each level as "on". */
const efforts = new Map<string, Think>([
  ['none', false],
  ['minimal', 'low'],
  ['low', 'low'],
  ['medium', 'medium'],
  ['high', 'high'],
  ['xhigh', 'max'],
  ['ultra', 'max'],
  ['max', 'max'],
])

const levels: readonly unknown[] = ['low', 'medium', 'high', 'max']
const isThink = (value: unknown): value is Think => typeof value === 'boolean' || levels.includes(value)

const isSent = (value: unknown) => value !== undefined && value !== null && value !== ''

const toThink = (effort: string, param: string): Think => {
  const think = efforts.get(effort)
  if (think !== undefined) return think
  throw wrongValue(
    param,
    "supported values are 'none', 'minimal', 'low', 'medium', 'high', 'xhigh' and 'max'.",
  )
}

/** `reasoning_effort`, else `reasoning.effort`, else Ollama's `think`. */
const readThink = (body: ChatRequest, ignored: string[]): { think: Think; field: string } | undefined => {
  const { reasoning_effort: effort, reasoning, think } = body
  const nested = isObject(reasoning) ? reasoning['effort'] : undefined
  const candidates: { field: string; sent: boolean; read: () => Think }[] = [
    {
      field: 'reasoning_effort',
      sent: isSent(effort),
      read: () => toThink(String(effort), 'reasoning_effort'),
    },
    {
      field: 'reasoning',
      sent: typeof nested === 'string',
      read: () => toThink(String(nested), 'reasoning.effort'),
    },
    {
      field: 'think',
      sent: isSent(think),
      read: () => {
        if (isThink(think)) return think
        if (typeof think !== 'string') throw wrongType('think', 'a boolean or a string', think)
        throw wrongValue('think', "supported values are true, false, 'low', 'medium', 'high' and 'max'.")
      },
    },
  ]
  const [chosen, ...others] = candidates.filter(candidate => candidate.sent)
  ignored.push(...others.map(other => other.field))
  if (isSent(reasoning) && typeof nested !== 'string') ignored.push('reasoning')
  return chosen === undefined ? undefined : { think: chosen.read(), field: chosen.field }
}

type Format = NonNullable<OllamaChatRequest['format']>

const readSchema = (schema: unknown, param: string): Record<string, unknown> => {
  if (!isObject(schema)) throw wrongType(param, 'an object', schema)
  if (deeperThan(schema, depthMax)) throw wrongValue(param, 'the schema is nested too deeply.')
  return schema
}

const readResponseFormat = (format: Record<string, unknown>): Format | undefined => {
  const { type, json_schema: named } = format
  switch (type) {
    case 'text':
      return undefined
    case 'json_object':
      return 'json'
    case 'json_schema': {
      if (named === undefined || named === null) throw missing('response_format.json_schema')
      if (!isObject(named)) throw wrongType('response_format.json_schema', 'an object', named)
      const { schema } = named
      if (schema === undefined || schema === null) return 'json'
      return readSchema(schema, 'response_format.json_schema.schema')
    }
    case undefined:
    case null:
      throw missing('response_format.type')
    default:
      if (typeof type !== 'string') throw wrongType('response_format.type', 'a string', type)
      throw wrongValue(
        'response_format.type',
        "supported values are 'text', 'json_object' and 'json_schema'.",
      )
  }
}

/** `response_format`, else Ollama's own `format`. */
const readFormat = (body: ChatRequest, ignored: string[]): Format | undefined => {
  const { response_format: standard, format } = body
  if (standard !== undefined && standard !== null) {
    if (isSent(format)) ignored.push('format')
    return readResponseFormat(standard)
  }
  if (!isSent(format)) return undefined
  if (format === 'json') return format
  if (typeof format === 'string') throw wrongValue('format', "supported values are 'json' and a JSON schema.")
  return readSchema(format, 'format')
}

/** The new name wins. Some clients write 0 or -1 for "no limit". */
const readMaxTokens = (body: ChatRequest, ignored: string[]): number | null => {
  const { max_completion_tokens: current, max_tokens: former } = body
  const isLimit = (value: number | null | undefined): value is number =>
    typeof value === 'number' && value > 0
  if (isLimit(current)) {
    if (isLimit(former) && former !== current) ignored.push('max_tokens')
    return current
  }
  return isLimit(former) ? former : null
}

const readTopLogprobs = (body: ChatRequest): number | undefined => {
  const top = body.top_logprobs
  if (top === undefined || top === null) return undefined
  if (body.logprobs === true) return top
  if (top > 0) throw wrongValue('top_logprobs', "it needs 'logprobs' to be true.")
  return undefined
}

/** Pure. Throws the 400 of the first fault; its `param` names the field. */
export const toOllamaChat = (body: ChatRequest): PreparedChat => {
  const ignored = ignoredFields(body)
  if (body.modalities?.includes('audio'))
    throw wrongValue('modalities', "supported values are 'text'.", 'unsupported_value')
  const { messages, images, inlineImages, ignored: inMessages } = readMessages(body.messages)
  const tooling = readTools(body)
  const options = readSampling(body, ignored)
  const thinking = readThink(body, ignored)
  const format = readFormat(body, ignored)
  const topLogprobs = readTopLogprobs(body)
  const maxTokens = readMaxTokens(body, ignored)
  if (body.stream_options?.include_obfuscation === true) ignored.push('stream_options.include_obfuscation')
  ignored.push(...inMessages, ...tooling.ignored)

  const request: OllamaChatRequest = { model: body.model, stream: true, messages }
  if (tooling.tools.length > 0) request.tools = tooling.tools
  if (format !== undefined) request.format = format
  if (thinking !== undefined) request.think = thinking.think
  if (Object.keys(options).length > 0) request.options = options
  if (body.logprobs === true) request.logprobs = true
  if (topLogprobs !== undefined) request.top_logprobs = topLogprobs

  return {
    model: body.model,
    request,
    images,
    inlineImages,
    maxTokens,
    choices: body.n ?? 1,
    stream: body.stream === true,
    includeUsage: body.stream_options?.include_usage === true,
    ignored: toHeaderNames(ignored),
    legacyFunctions: tooling.legacyFunctions,
    firstToolCallOnly: body.parallel_tool_calls === false,
    customTools: tooling.customTools,
    serviceTier: isSent(body.service_tier),
    uses: {
      tools: tooling.tools.length > 0,
      images: images.length + inlineImages.length > 0,
      thinking: thinking !== undefined && thinking.think !== false,
    },
    thinkField: thinking?.field ?? null,
  }
}

/**
 * The request as a model of these capabilities can take it, or a 400 that names what it lacks. `think` is dropped
 * rather than refused; Ollama would refuse it. Capabilities that are unknown (undefined, or an empty list, as broken
 * and old models have) pass everything.
 */
export const toFitModel = (
  prepared: PreparedChat,
  { capabilities }: { capabilities: readonly string[] | undefined },
): PreparedChat => {
  if (capabilities === undefined || capabilities.length === 0) return prepared
  const { uses, request, thinkField } = prepared
  if (uses.tools && !capabilities.includes('tools')) throw toolsUnsupported(prepared.legacyFunctions)
  if (uses.images && !capabilities.includes('vision')) {
    // Ollama would drop the image and answer 200.
    const param = (prepared.inlineImages[0] ?? prepared.images[0])?.param ?? 'messages'
    throw invalid(
      param,
      `Unsupported value for '${param}': this model does not take images.`,
      'unsupported_value',
    )
  }
  if (thinkField === null || capabilities.includes('thinking')) return prepared
  const { think: _, ...withoutThink } = request
  return {
    ...prepared,
    request: withoutThink,
    ignored: uses.thinking ? toHeaderNames([...prepared.ignored, thinkField]) : prepared.ignored,
    uses: { ...uses, thinking: false },
    thinkField: null,
  }
}
