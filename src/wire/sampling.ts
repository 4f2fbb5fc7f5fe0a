/**
 * Sampling options for Ollama's `options`, from OpenAI's fields and from Ollama's own names, which may stand at the
 * top level or under `options`. Types are checked here: Ollama answers a wrong one with a 500.
 */
import { isObject, wrongType } from './invalid-request.ts'
import type { OllamaOptions } from './ollama.ts'

type Kind = 'number' | 'integer' | 'boolean' | 'strings'

/** OpenAI's own; their types and ranges are the request schema's. */
export const openaiSampling = {
  temperature: 'number',
  top_p: 'number',
  frequency_penalty: 'number',
  presence_penalty: 'number',
  seed: 'integer',
  stop: 'strings',
} as const satisfies Record<string, Kind>

/** Ollama's extras. Not here: whatever goes round a grant or makes Ollama load a model anew. */
export const ollamaSampling = {
  top_k: 'integer',
  min_p: 'number',
  typical_p: 'number',
  repeat_penalty: 'number',
  repeat_last_n: 'integer',
  mirostat: 'integer',
  mirostat_tau: 'number',
  mirostat_eta: 'number',
  tfs_z: 'number',
  penalize_newline: 'boolean',
} as const satisfies Record<string, Kind>

const every = Object.entries<Kind>({ ...openaiSampling, ...ollamaSampling })

const readOption = (kind: Kind, value: unknown, param: string): OllamaOptions[string] | undefined => {
  switch (kind) {
    case 'boolean':
      if (typeof value === 'boolean') return value
      throw wrongType(param, 'a boolean', value)
    case 'strings': {
      const stops = typeof value === 'string' ? [value] : value
      if (!Array.isArray(stops)) throw wrongType(param, 'a string or an array', value)
      for (const [index, stop] of stops.entries())
        if (typeof stop !== 'string') throw wrongType(`${param}[${index}]`, 'a string', stop)
      // An empty stop string can match at once.
      const effective = stops.filter(stop => stop !== '')
      return effective.length > 0 ? effective : undefined
    }
    default:
      if (typeof value !== 'number')
        throw wrongType(param, kind === 'integer' ? 'an integer' : 'a number', value)
      if (kind === 'integer' && !Number.isInteger(value)) throw wrongType(param, 'an integer', value)
      return value
  }
}

/**
 * Only what was sent: an absent temperature must stay absent, so that the model's own default holds. The top level
 * wins over `options`; an entry of `options` without effect is put into `ignored` as `options.name`.
 */
export const readSampling = (body: Record<string, unknown>, ignored: string[]): OllamaOptions => {
  const read: OllamaOptions = {}
  const { options } = body
  const nested = isObject(options) ? options : {}
  const used = new Set<string>()
  for (const [name, kind] of every) {
    const fromTop = body[name] !== undefined && body[name] !== null
    const value = fromTop ? body[name] : nested[name]
    if (value === undefined || value === null) continue
    if (!fromTop) used.add(name)
    const option = readOption(kind, value, fromTop ? name : `options.${name}`)
    if (option !== undefined) read[name] = option
  }
  for (const [name, value] of Object.entries(nested))
    if (value !== null && !used.has(name)) ignored.push(`options.${name}`)
  return read
}
