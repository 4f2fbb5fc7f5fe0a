/** What is learnt of each model: how many tokens its prompts take, its answers need, its lines hold. */
import { type AnswerLength, createAnswerLength } from './answer-length.ts'
import {
  type CompletionCounter,
  createCompletionCounter,
  createTokenRatio,
  type TokenRatio,
} from './count.ts'
import { createPromptEstimator, type PromptEstimator, type PromptFeatures } from './estimate.ts'

export type { CompletionCounter } from './count.ts'

/** What one finished run showed; leave out what Ollama did not report. */
type Observation = {
  features: PromptFeatures
  /** `prompt_eval_count`. */
  promptTokens?: number | undefined
  /** The context the model was loaded with, where known: a prompt that reached it was cut. */
  contextLength?: number | undefined
  /** `eval_count`. */
  completionTokens?: number | undefined
  /** The counter that noted the run's lines, all of them. */
  counter?: CompletionCounter | undefined
  /** `done_reason` stop: ended by itself and not by `num_predict` or a limit. */
  naturalEnd: boolean
}

export type ModelLearnt = {
  /** Tokens to reserve for a prompt, at least 1, at most the context length where known. */
  estimatePrompt(features: PromptFeatures, contextLength?: number): number
  /** Tokens that the prompt most likely takes: what is billed where Ollama gives no count. */
  expectPrompt(features: PromptFeatures, contextLength?: number): number
  /** Tokens that an answer usually needs: the first grant. */
  usualAnswer(): number
  /** For one run. */
  counter(): CompletionCounter
  learn(observation: Observation): void
}

export type Learnt = {
  /** Of a canonical model name. Ask again for each request: the least recently asked are forgotten. */
  of(model: string): ModelLearnt
  /** Hands over what was learnt since, of every model; for the shutdown. */
  flush(): void
}

/** A model keeps at most 8 KB. */
const MODELS_MOST = 1000
const OBSERVATIONS_PER_SAVE = 16

type Model = ModelLearnt & { toText(): string; readonly unsaved: number; saved(): void }

const parseSaved = (text: string | undefined): string[] => {
  if (text === undefined) return []
  try {
    const parts: unknown = JSON.parse(text)
    return Array.isArray(parts) && parts.every(part => typeof part === 'string') ? parts : []
  } catch {
    return [] // the text of another release: learn anew
  }
}

const createModel = (text: string | undefined, onLearnt: () => void): Model => {
  const [savedPrompt, savedAnswer, savedRatio] = parseSaved(text)
  const prompt: PromptEstimator = createPromptEstimator(savedPrompt)
  const answer: AnswerLength = createAnswerLength(savedAnswer)
  const ratio: TokenRatio = createTokenRatio(savedRatio)
  let unsaved = 0

  return {
    estimatePrompt: prompt.estimate,
    expectPrompt: prompt.expect,
    usualAnswer: answer.usual,
    counter: () => createCompletionCounter(ratio),
    learn({ features, promptTokens, contextLength, completionTokens, counter, naturalEnd }) {
      // Thinking under a `format` runs twice: both counts are of the second run, whose prompt holds the thinking.
      if (features.constrained && counter !== undefined && counter.reasoning > 0) return
      if (promptTokens !== undefined) prompt.learn(features, promptTokens, contextLength)
      if (completionTokens !== undefined) {
        answer.learn(completionTokens, naturalEnd)
        if (counter !== undefined) ratio.learn(counter, completionTokens, naturalEnd)
      }
      unsaved++
      onLearnt()
    },
    toText: () => JSON.stringify([prompt.toText(), answer.toText(), ratio.toText()]),
    saved() {
      unsaved = 0
    },
    get unsaved() {
      return unsaved
    },
  }
}

/** What is known of every model nobody has heard; never taught. */
const unlearnt = createModel(undefined, () => {})

/**
 * `saved` is what `onLearnt` was given in former lives: the last text of each model, to be kept as it is. It is called
 * once in 16 observations of a model, when a model is forgotten for another, and by `flush`.
 */
export const createLearnt = (
  saved: readonly { model: string; text: string }[],
  onLearnt: (model: string, text: string) => void,
): Learnt => {
  /** Texts of models not asked for, or forgotten since: a string is a fraction of what it turns into. */
  const texts = new Map<string, string>()
  /** In the order of last use. */
  const models = new Map<string, Model>()
  let latest: string | undefined

  const keepText = (name: string, text: string) => {
    texts.delete(name)
    texts.set(name, text)
    const oldest = texts.keys().next().value
    if (texts.size > MODELS_MOST && oldest !== undefined) texts.delete(oldest)
  }
  for (const { model, text } of saved) keepText(model, text)

  const save = (name: string, model: Model) => {
    // A run that outlives its model's place among the most recent ones adds nothing: its name may have begun anew.
    if (model.unsaved === 0 || models.get(name) !== model) return
    model.saved()
    onLearnt(name, model.toText())
  }

  const forgetOldest = () => {
    const oldest = models.entries().next().value
    if (models.size < MODELS_MOST || oldest === undefined) return
    const [name, model] = oldest
    save(name, model)
    models.delete(name)
    keepText(name, model.toText())
  }

  /** The model, among the most recent ones from now on. */
  const keep = (name: string): Model => {
    const known = models.get(name)
    if (known !== undefined) {
      if (name === latest) return known
      latest = name
      models.delete(name)
      models.set(name, known)
      return known
    }
    forgetOldest()
    const model: Model = createModel(texts.get(name), () => {
      if (model.unsaved >= OBSERVATIONS_PER_SAVE) save(name, model)
    })
    texts.delete(name)
    models.set(name, model)
    latest = name
    return model
  }

  return {
    of(name) {
      if (models.has(name) || texts.has(name)) return keep(name)
      // Nothing is kept of a name until it has answered: names are the clients' to invent.
      return { ...unlearnt, learn: observation => keep(name).learn(observation) }
    },
    flush() {
      for (const [name, model] of models) save(name, model)
    },
  }
}
