/** Tool calls of an answer: Ollama's, each whole on one line → OpenAI's. */
import { isObject } from './invalid-request.ts'
import type { OllamaToolCall } from './ollama.ts'
import type { ToolCall } from './openai.ts'

type CallSettings = {
  /** Tools that the client declared as custom: their calls carry text, not arguments. */
  customTools?: ReadonlySet<string>
  firstToolCallOnly: boolean
  /** A legacy answer has room for one call. */
  legacyFunctions: boolean
  /** `call_…`, unique. */
  newToolCallId: () => string
}

/** `arguments` is JSON text for clients and an object for Ollama; anything else of a broken parser stays text. */
const toArguments = (values: unknown): string => {
  if (typeof values === 'string') return values
  return JSON.stringify(values ?? {})
}

const toInput = (values: unknown): string => {
  const input = isObject(values) ? values['input'] : undefined
  return typeof input === 'string' ? input : toArguments(values)
}

export interface CallReader {
  /** How many calls were told so far; the next one's index. */
  count(): number
  /** The calls to tell of these; later ones than the first are dropped where the client takes one only. */
  read(calls: readonly OllamaToolCall[]): ToolCall[]
}

class Reader implements CallReader {
  readonly #settings: CallSettings
  /** Made at the first call: most answers have none. */
  #ids: Set<string> | undefined

  constructor(settings: CallSettings) {
    this.#settings = settings
  }

  count(): number {
    return this.#ids?.size ?? 0
  }

  read(calls: readonly OllamaToolCall[]): ToolCall[] {
    const { customTools, firstToolCallOnly, legacyFunctions, newToolCallId } = this.#settings
    const callsMax = firstToolCallOnly || legacyFunctions ? 1 : Number.POSITIVE_INFINITY
    this.#ids ??= new Set()
    const ids = this.#ids
    const told: ToolCall[] = []
    for (const call of calls) {
      if (ids.size >= callsMax) break
      if (!isObject(call) || !isObject(call.function) || typeof call.function.name !== 'string') continue
      const { name, arguments: values } = call.function
      const id = call.id === undefined || call.id === '' || ids.has(call.id) ? newToolCallId() : call.id
      ids.add(id)
      told.push(
        customTools?.has(name)
          ? { id, type: 'custom', custom: { name, input: toInput(values) } }
          : { id, type: 'function', function: { name, arguments: toArguments(values) } },
      )
    }
    return told
  }
}

/** For one run. Ids are Ollama's where it sent one that was not seen before. */
export const createCallReader = (settings: CallSettings): CallReader => new Reader(settings)
