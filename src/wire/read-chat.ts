/**
 * A chat body, read: at a glance where it is the usual one, messages of text alone and a few settings. That needs none of
 * the reading that tools, images, thinking, formats and the fields of other vendors do, which is most of what a small
 * request costs. A property holds both ways equal.
 */
import { type PreparedChat, toOllamaChat } from './chat-request.ts'
import { isObject } from './invalid-request.ts'
import type { OllamaMessage, OllamaOptions } from './ollama.ts'
import { isModelName, messagesMax, parseChatRequest } from './openai.ts'

const isMessages = (value: unknown): value is OllamaMessage[] =>
  Array.isArray(value) && value.length > 0 && value.length <= messagesMax && value.every(isTextMessage)

const isTextMessage = (message: unknown): boolean => {
  if (!isObject(message)) return false
  const { role, content } = message
  return (
    typeof content === 'string' &&
    (role === 'user' || role === 'assistant' || role === 'system') &&
    Object.keys(message).length === 2
  )
}

const isWithin = (value: unknown, most: number): value is number =>
  typeof value === 'number' && value >= 0 && value <= most

const asksForUsageOnly = (value: unknown): value is { include_usage: boolean } =>
  isObject(value) && typeof value['include_usage'] === 'boolean' && Object.keys(value).length === 1

const noTools: ReadonlySet<string> = new Set()

/** Undefined for any other request, right or wrong. */
export const readPlainChat = (body: unknown): PreparedChat | undefined => {
  if (!isObject(body)) return undefined
  let model: string | undefined
  let messages: OllamaMessage[] | undefined
  let stream = false
  let includeUsage = false
  let maxTokens: number | undefined
  let options: OllamaOptions | undefined
  for (const name of Object.keys(body)) {
    const value = body[name]
    switch (name) {
      case 'model':
        if (!isModelName(value)) return undefined
        model = value
        break
      case 'messages':
        if (!isMessages(value)) return undefined
        messages = value
        break
      case 'stream':
        if (typeof value !== 'boolean') return undefined
        stream = value
        break
      case 'stream_options':
        if (!asksForUsageOnly(value)) return undefined
        includeUsage = value.include_usage
        break
      case 'temperature':
      case 'top_p':
        if (!isWithin(value, name === 'top_p' ? 1 : 2)) return undefined
        options ??= {}
        options[name] = value
        break
      case 'seed':
        if (!Number.isInteger(value)) return undefined
        options ??= {}
        options[name] = value as number
        break
      case 'max_tokens':
      case 'max_completion_tokens':
        if (maxTokens !== undefined || !Number.isInteger(value)) return undefined
        maxTokens = value as number
        break
      default:
        return undefined
    }
  }
  if (model === undefined || messages === undefined) return undefined

  const request: PreparedChat['request'] = { model, stream: true, messages }
  if (options !== undefined) request.options = options
  return {
    model,
    request,
    images: [],
    inlineImages: [],
    maxTokens: maxTokens !== undefined && maxTokens > 0 ? maxTokens : null,
    choices: 1,
    stream,
    includeUsage,
    ignored: [],
    legacyFunctions: false,
    firstToolCallOnly: false,
    customTools: noTools,
    serviceTier: false,
    uses: { tools: false, images: false, thinking: false },
    thinkField: null,
  }
}

/** A JSON body → what Ollama is asked; the 400 of its first fault otherwise. */
export const readChat = (body: unknown): PreparedChat =>
  readPlainChat(body) ?? toOllamaChat(parseChatRequest(body))
