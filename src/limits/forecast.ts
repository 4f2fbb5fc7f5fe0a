/** What a request will take, as far as can be told beforehand, and what is asked of its user's limits for it. */
import type { OllamaRequest } from '../wire/ollama.ts'
import type { Demand, Limits } from './admission.ts'
import { utf8Bytes } from './utf8.ts'

export type Forecast = Demand & {
  /** What the prompt most likely takes; `prompt` is what it hardly ever goes over. */
  promptExpected: number
}

/**
 * So many tokens at most may be generated and never shown: text that may become one of the request's stop strings is
 * held back, and dropped when it does, yet Ollama counts it (captures: chat-stop). A token is a byte at least.
 */
export const heldBackMost = (request: OllamaRequest): number => {
  const stop = 'input' in request ? undefined : request.options?.['stop']
  let most = 0
  for (const text of Array.isArray(stop) ? stop : []) most = Math.max(most, utf8Bytes(text))
  return most
}

/**
 * The demand under these limits: the forecast, unless its prompt alone is over a whole token limit though it most
 * likely isn't. Of a model hardly heard the estimate is far above what prompts take; such a request would be told that
 * it can never fit, and nothing would ever be learnt. Of what the limit leaves beyond the likeliest prompt one half is
 * reserved for a longer one, the other is for the answer.
 */
export const toDemand = ({ prompt, usual, promptExpected }: Forecast, limits: Limits): Demand => {
  const smallest = Math.min(
    limits.tokensPerMinute ?? Number.POSITIVE_INFINITY,
    limits.tokensPerDay ?? Number.POSITIVE_INFINITY,
    limits.totalTokens ?? Number.POSITIVE_INFINITY,
  )
  const least = Math.min(usual, 1)
  const spare = smallest - least - promptExpected
  if (prompt + least <= smallest || spare < 0) return { prompt, usual }
  return { prompt: smallest - least - Math.min(usual - least, Math.floor(spare / 2)), usual }
}
