/**
 * How many tokens a prompt will take, before Ollama has read it: what is reserved for it.
 *
 * Per model, learnt from `prompt_eval_count`: a linear regression over what the prompt is made of, plus a margin. The
 * margin is the quantile that recent prompts needed, in standard deviations of their own uncertainty, so the share of
 * prompts at or under their reservation holds whatever the tokenizer, and a model unheard of is reserved generously.
 */
import { type PromptFeatures, promptPriors } from './prompt.ts'
import { createRunningQuantile } from './quantile.ts'
import { createRegression } from './regression.ts'

export { measurePrompt, type PromptFeatures } from './prompt.ts'

export type PromptEstimator = {
  /**
   * Tokens to reserve, at least 1. Ollama cuts a prompt at the context length, where known, so it is never more.
   */
  estimate(features: PromptFeatures, contextLength?: number): number
  /** What it will most likely take, without the margin: the bill of a prompt whose count never came. */
  expect(features: PromptFeatures, contextLength?: number): number
  /**
   * Takes a prompt's real count. Counts of prompts that were cut at `contextLength` say nothing and are ignored;
   * counts far from what is believed (a release that leaves out the cached part) move it only when they persist.
   */
  learn(features: PromptFeatures, promptTokens: number, contextLength?: number): void
  /** Short JSON for `createPromptEstimator(saved)`. */
  toText(): string
}

/** The share of prompts to be at or under their reservation; the promise is 0.95. */
const COVERED = 0.97
/** How many recent prompts the margin is taken from. */
const REMEMBERED = 128
/** Until so many were seen, the margin in standard deviations is at least the first, at most the second. */
const REMEMBERED_LEAST = 32
const MARGIN_LEAST = 1.7
const MARGIN_MOST = 4
/** Recent errors are kept in hundredths of a standard deviation: whole numbers, so that saving loses nothing. */
const HUNDREDTHS = 100

/** What two prompts of equal features differ by: some tokens for short ones, some per cent for long ones. */
const noiseOf = (tokens: number): number => 1 + 0.3 * tokens + (0.04 * tokens) ** 2

const parseSaved = (text: string | undefined): { weights?: number[]; errors?: number[] } => {
  if (text === undefined) return {}
  try {
    const saved: unknown = JSON.parse(text)
    if (!Array.isArray(saved) || !Array.isArray(saved[0]) || !Array.isArray(saved[1])) return {}
    return { weights: saved[0], errors: saved[1].filter(Number.isSafeInteger) }
  } catch {
    return {} // the text of another release: learn anew
  }
}

/** `saved` is a text by `toText`; one that is not understood counts as nothing learnt. */
export const createPromptEstimator = (saved?: string): PromptEstimator => {
  const { weights, errors } = parseSaved(saved)
  const regression = createRegression(promptPriors, weights)
  const recent = createRunningQuantile(REMEMBERED, errors)

  const margin = (): number => {
    const needed = (recent.at(COVERED) ?? 0) / HUNDREDTHS
    if (recent.count >= REMEMBERED_LEAST) return needed
    return Math.min(MARGIN_MOST, Math.max(MARGIN_LEAST, needed))
  }

  /** Of several inputs each is cut by itself: some may have been when they fill half of their contexts together. */
  const mayBeCut = (expected: number, tokens: number, prompts: number, contextLength: number | undefined) => {
    if (contextLength === undefined) return false
    const uncut = prompts === 1 ? contextLength : (contextLength * prompts) / 2
    return tokens >= uncut || expected > uncut
  }

  const atMost = (tokens: number, prompts: number, contextLength: number | undefined) =>
    contextLength === undefined ? tokens : Math.min(tokens, contextLength * prompts)

  return {
    estimate({ counts, prompts }, contextLength) {
      const mean = regression.mean(counts)
      const spread = Math.sqrt(regression.variance(counts) + noiseOf(mean))
      return atMost(Math.max(1, Math.ceil(mean + margin() * spread)), prompts, contextLength)
    },
    expect({ counts, prompts }, contextLength) {
      return atMost(Math.max(1, Math.round(regression.mean(counts))), prompts, contextLength)
    },
    learn({ counts, prompts }, promptTokens, contextLength) {
      if (!(promptTokens >= 1) || !Number.isFinite(promptTokens)) return
      const mean = regression.mean(counts)
      if (mayBeCut(mean, promptTokens, prompts, contextLength)) return
      const noise = noiseOf(mean)
      const unsure = regression.variance(counts)
      const verdict = regression.learn(counts, promptTokens, noise)
      // Errors of beliefs just given up, or of what was still more guess than noise, say nothing about the next.
      if (verdict === 'believed') recent.clear()
      else if (verdict === 'expected' && unsure < noise) {
        recent.add(Math.round((HUNDREDTHS * (promptTokens - mean)) / Math.sqrt(unsure + noise)))
      }
    },
    toText: () => JSON.stringify([regression.toNumbers(), recent.values()]),
  }
}
