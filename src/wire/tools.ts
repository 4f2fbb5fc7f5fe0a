/**
 * OpenAI's `tools`, `tool_choice` and their legacy forms → the tools Ollama is given. Ollama knows no tool choice:
 * what can be honoured by choosing which tools it sees is honoured, that a call *must* be made cannot be.
 */
import { invalid } from '../errors.ts'
import { isObject, missing, wrongType, wrongValue } from './invalid-request.ts'
import { deeperThan, depthMax } from './json-depth.ts'
import type { ChatRequest } from './openai.ts'
import { flattenSchema } from './schemas.ts'

export type OllamaTool = {
  type: 'function'
  function: { name: string; description?: string; parameters: Record<string, unknown> }
}

export type ReadTools = {
  tools: OllamaTool[]
  /** Names of tools that the client declared as `custom`; their calls are told back as custom calls. */
  customTools: ReadonlySet<string>
  /** The client speaks of `functions`: the answer must say `function_call`. */
  legacyFunctions: boolean
  ignored: string[]
}

const required = (value: unknown, param: string, kind: 'string' | 'object') => {
  if (value === undefined || value === null || value === '') return missing(param)
  return wrongType(param, kind === 'string' ? 'a string' : 'an object', value)
}

const readParameters = (value: unknown, param: string): Record<string, unknown> => {
  if (value === undefined || value === null) return { type: 'object', properties: {} }
  if (!isObject(value)) throw wrongType(param, 'an object', value)
  const flat = deeperThan(value, depthMax) ? undefined : flattenSchema(value)
  if (flat === undefined) throw wrongValue(param, 'the schema is too large or nested too deeply.')
  // Without `properties` Ollama would write `null` into the prompt.
  return { type: 'object', ...flat, properties: isObject(flat['properties']) ? flat['properties'] : {} }
}

const readFunction = (value: unknown, param: string, ignored: string[]): OllamaTool => {
  if (!isObject(value)) throw required(value, param, 'object')
  const { name, description, parameters, strict } = value
  if (typeof name !== 'string' || name === '') throw required(name, `${param}.name`, 'string')
  if (description !== undefined && description !== null && typeof description !== 'string')
    throw wrongType(`${param}.description`, 'a string', description)
  if (strict === true) ignored.push('tools.function.strict')
  return {
    type: 'function',
    function: {
      name,
      ...(typeof description === 'string' ? { description } : {}),
      parameters: readParameters(parameters, `${param}.parameters`),
    },
  }
}

/** A tool of free text, shown to the model as a function of one string. */
const readCustom = (value: unknown, param: string): OllamaTool => {
  if (!isObject(value)) throw required(value, `${param}.custom`, 'object')
  const { name, description, format } = value
  if (typeof name !== 'string' || name === '') throw required(name, `${param}.custom.name`, 'string')
  if (isObject(format) && format['type'] !== undefined && format['type'] !== 'text')
    throw wrongValue(param, "custom tools are supported with the format 'text' only.", 'unsupported_value')
  const input = { type: 'string', description: 'The input of the tool, as free text.' }
  return {
    type: 'function',
    function: {
      name,
      ...(typeof description === 'string' ? { description } : {}),
      parameters: { type: 'object', properties: { input }, required: ['input'] },
    },
  }
}

const nameIn = (choice: Record<string, unknown>): unknown => {
  const { type } = choice
  const named = typeof type === 'string' ? choice[type] : choice['function']
  return isObject(named) ? named['name'] : choice['name']
}

/** The tools that a choice leaves. Throws when it names one that is not there. */
const choose = (choice: unknown, tools: OllamaTool[], param: string, ignored: string[]): OllamaTool[] => {
  if (choice === undefined || choice === null || choice === 'auto') return tools
  if (choice === 'none') return []
  const find = (name: unknown): OllamaTool[] => {
    const found = tools.filter(tool => tool.function.name === name)
    if (found.length === 0) throw wrongValue(param, 'it names a tool that is not among the tools.')
    return found
  }
  // `any` is other vendors' word for it.
  if (choice === 'required' || choice === 'any') {
    ignored.push(param)
    return tools
  }
  if (typeof choice === 'string')
    throw wrongValue(
      param,
      "supported values are 'none', 'auto', 'required' and an object that names a tool.",
    )
  if (!isObject(choice)) throw wrongType(param, 'a string or an object', choice)
  if (choice['type'] === 'allowed_tools') {
    const allowed = choice['allowed_tools']
    if (!isObject(allowed)) throw required(allowed, `${param}.allowed_tools`, 'object')
    const names = allowed['tools']
    if (!Array.isArray(names)) throw wrongType(`${param}.allowed_tools.tools`, 'an array', names)
    if (allowed['mode'] === 'required') ignored.push(`${param}.allowed_tools.mode`)
    const left = new Set(names.flatMap(entry => find(isObject(entry) ? nameIn(entry) : undefined)))
    return tools.filter(tool => left.has(tool))
  }
  return find(nameIn(choice))
}

/** Throws the 400 of the first fault. `tools: []` is the same as none; with both forms sent `tools` wins. */
export const readTools = (body: ChatRequest): ReadTools => {
  const ignored: string[] = []
  const customTools = new Set<string>()
  const declared = (body.tools ?? []).map((tool, index) => {
    const param = `tools[${index}]`
    if (!isObject(tool)) throw wrongType(param, 'an object', tool)
    const { type } = tool
    if (type === 'custom') {
      const custom = readCustom(tool['custom'], param)
      customTools.add(custom.function.name)
      return custom
    }
    if (type !== 'function' && type !== undefined && type !== null)
      throw wrongValue(`${param}.type`, "supported values are 'function' and 'custom'.")
    return readFunction(tool['function'], `${param}.function`, ignored)
  })
  const functions = body.functions ?? []
  const legacyFunctions = declared.length === 0 && functions.length > 0
  const isSent = (value: unknown) => value !== undefined && value !== null
  if (!legacyFunctions) {
    if (functions.length > 0) ignored.push('functions')
    if (isSent(body.function_call) && !['none', 'auto'].includes(String(body.function_call)))
      ignored.push('function_call')
    return {
      tools: choose(body.tool_choice, declared, 'tool_choice', ignored),
      customTools,
      legacyFunctions,
      ignored,
    }
  }
  const tools = functions.map((one, index) => readFunction(one, `functions[${index}]`, ignored))
  const [choice, param] = isSent(body.tool_choice)
    ? [body.tool_choice, 'tool_choice']
    : [body.function_call, 'function_call']
  return { tools: choose(choice, tools, param, ignored), customTools, legacyFunctions, ignored }
}

/** What a model without the `tools` capability is answered with. */
export const toolsUnsupported = (legacyFunctions: boolean) => {
  const param = legacyFunctions ? 'functions' : 'tools'
  return invalid(
    param,
    `Unsupported parameter: '${param}' is not supported with this model.`,
    'unsupported_parameter',
  )
}
