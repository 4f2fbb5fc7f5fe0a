/** Which generating requests Ollama refuses before it works, and in which words (ollama-api.md §2.5, recordings). */
import type { Model } from './catalogue.ts'
import { isList, isObject, type Json } from './json.ts'

export type RefusedRequest = { status: number; error: string }

const refuse = (status: number, error: string): RefusedRequest => ({ status, error })

const thinkWords = ['high', 'medium', 'low', 'max']
const numbers =
  /^(num_(predict|keep|ctx|batch|gpu|thread)|temperature|top_[kp]|min_p|typical_p|repeat_last_n|seed|\w+_penalty)$/
const floats = /^(temperature|(top|min|typical)_p|\w+_penalty)$/

const goType = (value: unknown) => {
  if (isList(value)) return 'array'
  return typeof value === 'object' ? 'object' : typeof value === 'boolean' ? 'bool' : typeof value
}

/** What is wrong with the parts of the body, whatever the model. */
const findBadField = (body: Json, struct: string): RefusedRequest | undefined => {
  const { options, messages, think, keep_alive: keepAlive, top_logprobs: topLogprobs } = body
  const cannot = (value: unknown, field: string, type: string) =>
    refuse(
      400,
      `json: cannot unmarshal ${goType(value)} into Go struct field ${struct}.${field} of type ${type}`,
    )
  if (options !== undefined && options !== null && !isObject(options))
    return cannot(options, 'options', 'map[string]interface {}')
  for (const message of isList(messages) ? messages : []) {
    if (!isObject(message)) return cannot(message, 'messages', 'api.Message')
    const { content, images } = message
    if (content !== undefined && content !== null && typeof content !== 'string')
      return cannot(content, 'messages.content', 'string')
    for (const image of isList(images) ? images : []) {
      const bad = typeof image === 'string' ? image.search(/[^A-Za-z0-9+/=]/) : 0
      if (bad >= 0) return refuse(400, `illegal base64 data at input byte ${bad}`)
    }
  }
  if (typeof think === 'string' && !thinkWords.includes(think))
    return refuse(
      400,
      `invalid think value: "${think}" (must be "high", "medium", "low", "max", true, or false)`,
    )
  if (typeof keepAlive === 'string' && /^-?\d+$/.test(keepAlive))
    return refuse(400, `time: missing unit in duration "${keepAlive}"`)
  if (typeof topLogprobs === 'number' && (topLogprobs < 0 || topLogprobs > 20))
    return refuse(400, 'top_logprobs must be between 0 and 20')
  return undefined
}

/** What the model cannot do. */
const findMissingCapability = (
  model: Model,
  asked: string,
  body: Json,
  path: string,
): RefusedRequest | undefined => {
  const has = new Set(model.capabilities)
  const what = path === '/api/chat' ? 'chat' : 'generate'
  if (!has.has('completion')) return refuse(400, `"${asked}" does not support ${what}`)
  const missing: string[] = []
  if (isList(body['tools']) && body['tools'].length > 0 && !has.has('tools')) missing.push('tools')
  if (typeof body['suffix'] === 'string' && body['suffix'] !== '' && !has.has('insert'))
    missing.push('insert')
  if (missing.length > 0)
    return refuse(400, `registry.ollama.ai/library/${model.name} does not support ${missing.join('\n')}`)
  const { think } = body
  const thinks = think === true || (typeof think === 'string' && think !== '')
  if (thinks && !has.has('thinking')) return refuse(400, `"${asked}" does not support thinking`)
  return undefined
}

/** What is found only when the work begins: a wrong option or format is a 500. */
const findBadOption = (body: Json): RefusedRequest | undefined => {
  const options = isObject(body['options']) ? body['options'] : {}
  for (const [name, value] of Object.entries(options)) {
    if (value === null) continue
    if (name === 'stop' && !isList(value)) return refuse(500, 'option "stop" must be of type array')
    if (numbers.test(name) && typeof value !== 'number')
      return refuse(500, `option "${name}" must be of type ${floats.test(name) ? 'float32' : 'integer'}`)
  }
  const { format } = body
  if (format === undefined || format === null || format === '' || format === 'json' || isObject(format))
    return undefined
  return refuse(
    500,
    `invalid format: ${JSON.stringify(JSON.stringify(format))}; expected "json" or a valid JSON Schema object`,
  )
}

/** The first reason to refuse a request to `/api/chat` or `/api/generate`, or undefined. */
export const findRefusal = (
  model: Model,
  asked: string,
  body: Json,
  path: string,
): RefusedRequest | undefined =>
  findBadField(body, path === '/api/chat' ? 'ChatRequest' : 'GenerateRequest') ??
  findMissingCapability(model, asked, body, path) ??
  findBadOption(body)
