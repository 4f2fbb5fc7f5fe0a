/** Embeddings of the simulated models: unit vectors made from the text alone, equal texts getting equal vectors. */
import { createChance, hash } from './behaviour.ts'
import type { Model } from './catalogue.ts'
import { isList, isObject, type Json } from './json.ts'
import { countTokens } from './tokens.ts'

const unit = (vector: readonly number[]) => {
  const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0))
  return length === 0 ? [...vector] : vector.map(value => Math.fround(value / length))
}

/** The vector of a text; shorter `dimensions` cut it and make it a unit again, longer ones are ignored. */
const embed = (text: string, length: number, dimensions?: number): number[] => {
  const chance = createChance(hash(text))
  const vector = unit(Array.from({ length }, () => chance() * 2 - 1))
  return dimensions !== undefined && dimensions > 0 && dimensions < length
    ? unit(vector.slice(0, dimensions))
    : vector
}

export type EmbedAnswer = { status: number; body: Json; promptTokens: number }

const refuse = (status: number, error: string): EmbedAnswer => ({ status, body: { error }, promptTokens: 0 })

/** `/api/embed`: all inputs or none; one sum of tokens for the batch. */
export const answerEmbed = (model: Model, asked: string, body: Json): EmbedAnswer => {
  const { input, dimensions, truncate } = body
  const inputs = typeof input === 'string' ? (input === '' ? [] : [input]) : (input ?? [])
  if (!isList(inputs) || !inputs.every(one => typeof one === 'string'))
    return refuse(400, 'invalid input type')
  if (!model.capabilities.includes('embedding'))
    return refuse(501, 'This server does not support embeddings. Start it with `--embeddings`')
  if (inputs.length === 0) return { status: 200, body: { model: asked, embeddings: [] }, promptTokens: 0 }
  if (inputs.includes('')) return refuse(500, 'Failed to create new sequence: no input provided')
  const options = isObject(body['options']) ? body['options'] : {}
  const context =
    typeof options['num_ctx'] === 'number'
      ? Math.min(options['num_ctx'], model.contextLength)
      : model.contextLength
  const counts = inputs.map(countTokens)
  if (truncate === false && counts.some(count => count > context))
    return refuse(400, 'the input length exceeds the context length')
  const promptTokens = counts.reduce((sum, count) => sum + Math.min(count, context), 0)
  const cut = typeof dimensions === 'number' ? dimensions : undefined
  return {
    status: 200,
    body: {
      model: asked,
      embeddings: inputs.map(text => embed(text, model.embeddingLength, cut)),
      total_duration: 2_000_000,
      load_duration: 1_000_000,
      prompt_eval_count: promptTokens,
    },
    promptTokens,
  }
}
