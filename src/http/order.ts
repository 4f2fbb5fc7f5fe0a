/** A completion as its dialect prepared it: what it means for keys, limits and the bill is the same for all. */
import type { Job } from '../flight.ts'
import type { Kind } from '../store/ledger.ts'
import type { ModelFacts } from '../upstream/ollama.ts'
import type { OllamaChatRequest, OllamaGenerateRequest, OllamaRequest } from '../wire/ollama.ts'
import type { Writer } from '../wire/writer.ts'
import type { RequestImages } from './images.ts'
import type { LargeChat } from './large-body.ts'

export type AnswerIdentity = { id: string; created: number; model: string }

export type Order = {
  kind: Kind
  path: Job['path']
  model: string
  /** One per run, in the order of the answer's choices. */
  requests: OllamaRequest[]
  maxTokens: number | null
  stream: boolean
  ignored: readonly string[]
  images: RequestImages
  /** What the model must be able to do; asked of Ollama before it is sent, as it would answer 200 without it. */
  needs: boolean
  fit: (facts: ModelFacts) => Order
  createWriter: (identity: AnswerIdentity) => Writer
  /** The text a preview is cut from. */
  lastPrompt: string
  /** Where the messages of a large request are; its `requests` lack them. */
  large?: LargeChat | undefined
}

/** One request per choice: seeds derive from the first, or all choices would be the same. */
export const toChoices = <Request extends OllamaChatRequest | OllamaGenerateRequest>(
  request: Request,
  choices: number,
): Request[] => {
  if (choices === 1) return [request]
  const seed = request.options?.['seed']
  return Array.from({ length: choices }, (_, index) =>
    typeof seed === 'number'
      ? { ...request, options: { ...request.options, seed: seed + index } }
      : { ...request },
  )
}
