/** `POST /v1/embeddings`: one run without output tokens; the same keys, limits and ledger. */
import {
  type PreparedEmbedding,
  parseEmbedAnswer,
  readEmbedding,
  toEmbeddingList,
} from '../wire/embeddings.ts'
import type { Writer } from '../wire/writer.ts'
import type { AnswerIdentity, Order } from './order.ts'

/** Ollama answers with one object; it is kept until the row is closed. */
const createEmbeddingAnswer = (
  { model }: AnswerIdentity,
  { request, encoding }: PreparedEmbedding,
): Writer => {
  let embeddings: number[][] = []
  return {
    line(_run, line) {
      embeddings = parseEmbedAnswer(line, request.input.length).embeddings
      return ''
    },
    endRun: () => '',
    end: usage =>
      JSON.stringify(toEmbeddingList({ embeddings }, { model, encoding, promptTokens: usage.prompt_tokens })),
    fail: error => JSON.stringify(error),
  }
}

/** @throws ApiError 400 */
export const toEmbeddingOrder = (json: unknown): Order => {
  const prepared = readEmbedding(json)
  const order: Order = {
    kind: 'embedding',
    path: '/api/embed',
    model: prepared.request.model,
    requests: [prepared.request],
    maxTokens: null,
    stream: false,
    ignored: prepared.ignored,
    images: { refs: [], inline: [] },
    needs: false,
    fit: () => order,
    createWriter: identity => createEmbeddingAnswer(identity, prepared),
    lastPrompt: '',
  }
  return order
}
