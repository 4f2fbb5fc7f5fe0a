/** `POST /v1/completions`: the legacy dialect under the same keys, limits and ledger. */
import { invalid } from '../errors.ts'
import type { ModelFacts } from '../upstream/ollama.ts'
import { createCompletionAnswer, createCompletionStream } from '../wire/completion-answer.ts'
import { readCompletion } from '../wire/completions.ts'
import { type Order, toChoices } from './order.ts'

const requireInsert = ({ capabilities }: ModelFacts) => {
  if (capabilities === undefined || capabilities.includes('insert')) return
  throw invalid(
    'suffix',
    "Unsupported parameter: 'suffix' is not supported with this model.",
    'unsupported_parameter',
  )
}

/** @throws ApiError 400 */
export const toCompletionOrder = (json: unknown): Order => {
  const prepared = readCompletion(json)
  const { requests, choices } = prepared
  const order: Order = {
    kind: 'completion',
    path: '/api/generate',
    model: prepared.model,
    requests: requests.flatMap(request => toChoices(request, choices)),
    maxTokens: prepared.maxTokens,
    stream: prepared.stream,
    ignored: prepared.ignored,
    images: { refs: [], inline: [] },
    needs: requests.some(request => request.suffix !== undefined),
    fit(facts) {
      if (order.needs) requireInsert(facts)
      return order
    },
    createWriter(identity) {
      const head = { ...identity, prepared }
      return prepared.stream ? createCompletionStream(head) : createCompletionAnswer(head)
    },
    lastPrompt: requests[0]?.prompt ?? '',
  }
  return order
}
