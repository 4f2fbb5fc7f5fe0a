/**
 * OpenAI's messages → Ollama's, one for one, so that message i of the request is message i of the translation
 * (openai-api §1.2, §1.3). Whatever clients really send is taken: null or missing content, empty lists, fields of
 * other vendors. What cannot be understood is a 400 that names it.
 */
import { type ImageRef, type InlineImage, readImageUrl } from './images.ts'
import { isObject, missing, wrongType, wrongValue } from './invalid-request.ts'
import { deeperThan, depthMax } from './json-depth.ts'
import type { OllamaMessage, OllamaToolCall } from './ollama.ts'

export type ReadMessages = {
  messages: OllamaMessage[]
  images: ImageRef[]
  inlineImages: InlineImage[]
  /** Fields inside messages that were sent and mean nothing to Ollama. */
  ignored: string[]
}

type Message = Record<string, unknown>
type Reading = ReadMessages & { toolNames: Map<string, string> }

const roles = new Map([
  ['system', 'system'],
  // Few templates know `developer`, and it does not replace a model's built-in system prompt.
  ['developer', 'system'],
  ['user', 'user'],
  ['assistant', 'assistant'],
  ['tool', 'tool'],
  ['function', 'tool'],
])

const textPart = (part: Message, key: 'text' | 'refusal', param: string): string => {
  const text = part[key]
  if (typeof text === 'string') return text
  throw text === undefined || text === null
    ? missing(`${param}.${key}`)
    : wrongType(`${param}.${key}`, 'a string', text)
}

/** `{ url, detail }`, or the bare string that Responses and Ollama's clients write. */
const imagePart = (part: Message, param: string, into: Reading): string => {
  const image = part['image_url']
  if (typeof image === 'string') return image
  if (image === undefined || image === null) throw missing(param)
  if (!isObject(image)) throw wrongType(param, 'an object', image)
  const { url, detail } = image
  if (url === undefined || url === null) throw missing(param)
  if (typeof url !== 'string') throw wrongType(param, 'a string', url)
  if (typeof detail === 'string' && detail !== 'auto') into.ignored.push('image_url.detail')
  return url
}

/** The content's text; images are put into `message`. Parts are joined in one message: Ollama's own /v1 splits them. */
const readContent = (content: unknown, index: number, message: OllamaMessage, into: Reading): string => {
  if (typeof content === 'string') return content
  if (content === undefined || content === null) return ''
  const at = `messages[${index}].content`
  if (!Array.isArray(content)) throw wrongType(at, 'a string or an array', content)
  const texts: string[] = []
  for (const [partIndex, part] of content.entries()) {
    const param = `${at}[${partIndex}]`
    if (!isObject(part)) throw wrongType(param, 'an object', part)
    const { type } = part
    switch (type) {
      case 'text':
      case 'input_text':
      case 'output_text':
        texts.push(textPart(part, 'text', param))
        break
      case 'refusal':
        texts.push(textPart(part, 'refusal', param))
        break
      case 'image_url':
      case 'input_image': {
        message.images ??= []
        const place = { param: `${param}.image_url`, messageIndex: index, imageIndex: message.images.length }
        const image = readImageUrl(imagePart(part, place.param, into), place)
        if ('ref' in image) {
          into.images.push(image.ref)
          message.images.push('')
        } else {
          into.inlineImages.push(image.inline)
          message.images.push(image.base64)
        }
        break
      }
      case 'input_audio':
      case 'file':
      case 'input_file':
        throw wrongValue(
          `${param}.type`,
          `'${type}' parts are not supported; send text or images.`,
          'unsupported_value',
        )
      case undefined:
      case null:
        throw missing(`${param}.type`)
      default:
        if (typeof type !== 'string') throw wrongType(`${param}.type`, 'a string', type)
        throw wrongValue(`${param}.type`, "supported values are 'text', 'image_url' and 'refusal'.")
    }
  }
  return texts.join('\n')
}

/** Ollama wants an object; OpenAI's clients send a JSON string, '' when there are none, some the object itself. */
const readArguments = (value: unknown, param: string): Record<string, unknown> => {
  if (value === undefined || value === null) return {}
  if (typeof value !== 'string' && !isObject(value)) throw wrongType(param, 'a string', value)
  let parsed: unknown = value
  if (typeof value === 'string') {
    if (value.trim() === '') return {}
    try {
      parsed = JSON.parse(value)
    } catch {
      throw wrongValue(param, 'expected a JSON object as a string.')
    }
  }
  if (!isObject(parsed)) throw wrongValue(param, 'expected a JSON object as a string.')
  if (deeperThan(parsed, depthMax)) throw wrongValue(param, 'the JSON is nested too deeply.')
  return parsed
}

const readName = (value: unknown, param: string): string => {
  if (value === undefined || value === null || value === '') throw missing(param)
  if (typeof value !== 'string') throw wrongType(param, 'a string', value)
  return value
}

const readCalls = (calls: unknown[], at: string, into: Reading): OllamaToolCall[] =>
  calls.map((call, callIndex) => {
    const param = `${at}[${callIndex}]`
    if (!isObject(call)) throw wrongType(param, 'an object', call)
    const { id, function: called, custom } = call
    if (typeof id !== 'string' && id !== undefined && id !== null)
      throw wrongType(`${param}.id`, 'a string', id)
    let name: string
    let values: Record<string, unknown>
    if (isObject(custom)) {
      name = readName(custom['name'], `${param}.custom.name`)
      values = { input: typeof custom['input'] === 'string' ? custom['input'] : '' }
    } else {
      if (called === undefined || called === null) throw missing(`${param}.function`)
      if (!isObject(called)) throw wrongType(`${param}.function`, 'an object', called)
      name = readName(called['name'], `${param}.function.name`)
      values = readArguments(called['arguments'], `${param}.function.arguments`)
    }
    if (typeof id === 'string') into.toolNames.set(id, name)
    const translated = { function: { index: callIndex, name, arguments: values } }
    return typeof id === 'string' && id !== '' ? { id, ...translated } : translated
  })

/** A model's own earlier thinking, under whichever name the client kept it. */
const thinkingFields = ['reasoning_content', 'reasoning', 'thinking'] as const

const readAssistant = (source: Message, at: string, message: OllamaMessage, into: Reading) => {
  const { refusal, tool_calls: calls, function_call: legacyCall } = source
  if (message.content === '' && typeof refusal === 'string') message.content = refusal
  for (const field of thinkingFields) {
    const thinking = source[field]
    if (typeof thinking === 'string' && thinking !== '') {
      message.thinking = thinking
      break
    }
  }
  if (calls !== undefined && calls !== null) {
    if (!Array.isArray(calls)) throw wrongType(`${at}.tool_calls`, 'an array', calls)
    if (calls.length > 0) message.tool_calls = readCalls(calls, `${at}.tool_calls`, into)
  }
  if (message.tool_calls === undefined && legacyCall !== undefined && legacyCall !== null) {
    const param = `${at}.function_call`
    if (!isObject(legacyCall)) throw wrongType(param, 'an object', legacyCall)
    const name = readName(legacyCall['name'], `${param}.name`)
    const values = readArguments(legacyCall['arguments'], `${param}.arguments`)
    message.tool_calls = [{ function: { index: 0, name, arguments: values } }]
  }
}

/** Some templates use a result's name, others its id: both are given. The name is the called function's. */
const readToolResult = (source: Message, at: string, message: OllamaMessage, into: Reading) => {
  const { tool_call_id: id, name, tool_name: nativeName } = source
  if (id !== undefined && id !== null) {
    if (typeof id !== 'string') throw wrongType(`${at}.tool_call_id`, 'a string', id)
    message.tool_call_id = id
  }
  const ownName = [name, nativeName].find(value => typeof value === 'string' && value !== '')
  const toolName = (typeof id === 'string' ? into.toolNames.get(id) : undefined) ?? ownName
  if (typeof toolName === 'string') message.tool_name = toolName
  if (source['role'] === 'function') readName(name, `${at}.name`)
  else if (message.tool_call_id === undefined && toolName === undefined) throw missing(`${at}.tool_call_id`)
}

/** Throws the 400 of the first fault, in the order of the messages. */
export const readMessages = (sources: readonly unknown[]): ReadMessages => {
  const into: Reading = { messages: [], images: [], inlineImages: [], ignored: [], toolNames: new Map() }
  for (const [index, source] of sources.entries()) {
    const at = `messages[${index}]`
    if (!isObject(source)) throw wrongType(at, 'an object', source)
    const sent = readName(source['role'], `${at}.role`)
    const role = roles.get(sent)
    if (role === undefined)
      throw wrongValue(
        `${at}.role`,
        `supported values are ${[...roles.keys()].map(one => `'${one}'`).join(', ')}.`,
      )
    const message: OllamaMessage = { role, content: '' }
    message.content = readContent(source['content'], index, message, into)
    if (role === 'assistant') readAssistant(source, at, message, into)
    if (role === 'tool') readToolResult(source, at, message, into)
    else if (typeof source['name'] === 'string' && source['name'] !== '') into.ignored.push('messages.name')
    into.messages.push(message)
  }
  const { messages, images, inlineImages, ignored } = into
  return { messages, images, inlineImages, ignored }
}
