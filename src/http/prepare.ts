/** What a request will need: its prompts measured, its model's learnt ways, the context where a prompt may be longer. */
import type { MiddlewareHandler } from 'hono'
import type { Run } from '../flight.ts'
import { measurePrompt, type PromptFeatures } from '../limits/estimate.ts'
import { type Forecast, heldBackMost } from '../limits/forecast.ts'
import type { Learnt, ModelLearnt } from '../limits/learnt.ts'
import type { Models } from '../models.ts'
import type { Caller } from '../principals.ts'
import type { Upstream } from '../upstream/ollama.ts'
import type { OllamaRequest } from '../wire/ollama.ts'
import { parseJson, type ToOrder } from './body.ts'
import type { AppEnv } from './env.ts'
import type { Order } from './order.ts'

export type PrepareDeps = {
  learnt: Learnt
  models: Models
  upstream: Upstream
  refuseTruncation: boolean
}

/** One run's prompt: what it is made of, and how many tokens that takes. */
type Prompt = Pick<Run, 'features' | 'promptEstimate' | 'promptExpected'>

/** What a request will need, as far as can be told before it is sent. */
export type Foreseen = {
  /** Fit for its model, where Ollama had to be asked of that. */
  order: Order
  canonical: string
  learnt: ModelLearnt
  /** One per run. */
  prompts: Prompt[]
  contextLength: number | undefined
  /** Ollama will most likely cut the prompt. */
  isTruncated: boolean
  /** Tokens of each run that its stop strings may keep from being shown. */
  heldBack: number
  forecast: Forecast
}
/** The part that decides on a refusal. */
export type Foresight = Pick<Foreseen, 'forecast' | 'isTruncated'>

export type Prepared = Pick<Foreseen, 'order' | 'canonical' | 'learnt' | 'contextLength'> & { runs: Run[] }
export type PreparedEnv = AppEnv & { Variables: AppEnv['Variables'] & { prepared: Prepared } }

/** Shorter prompts fit any context a model is run with; for longer ones Ollama is asked how long it is. */
const CONTEXT_ALWAYS_FITS = 256

const promptOf = (request: OllamaRequest) =>
  'messages' in request ? request.messages : 'prompt' in request ? request.prompt : request.input

/** Choices stand side by side and share their prompt: measured once. */
const measure = ({ requests, large }: Order): PromptFeatures[] => {
  const measured: PromptFeatures[] = []
  let last: ReturnType<typeof promptOf> | undefined
  for (const request of requests) {
    const prompt = promptOf(request)
    const known = large?.outline.features ?? (prompt === last ? measured.at(-1) : undefined)
    measured.push(known ?? measurePrompt(request))
    last = prompt
  }
  return measured
}

const weigh = (
  order: Order,
  canonical: string,
  learnt: ModelLearnt,
  measured: readonly PromptFeatures[],
  contextLength: number | undefined,
): Foreseen => {
  const { kind, maxTokens } = order
  const [first] = order.requests
  const heldBack = first === undefined ? 0 : heldBackMost(first)
  const usual =
    kind === 'embedding'
      ? 0
      : Math.min(learnt.usualAnswer() + heldBack, maxTokens ?? Number.POSITIVE_INFINITY)
  const forecast = { prompt: 0, promptExpected: 0, usual: usual * measured.length }
  let isTruncated = false
  const prompts: Prompt[] = []
  for (const features of measured) {
    const promptEstimate = learnt.estimatePrompt(features, contextLength)
    const promptExpected = learnt.expectPrompt(features, contextLength)
    forecast.prompt += promptEstimate
    forecast.promptExpected += promptExpected
    if (contextLength !== undefined && learnt.estimatePrompt(features) > contextLength) isTruncated = true
    prompts.push({ features, promptEstimate, promptExpected })
  }
  return { order, canonical, learnt, prompts, contextLength, isTruncated, heldBack, forecast }
}

/**
 * At once, unless Ollama has to be asked of the model.
 *
 * @throws ApiError 403 where the key may not use the model, 400 for what the model can't do
 */
const foresee = (deps: PrepareDeps, caller: Caller, order: Order): Foreseen | Promise<Foreseen> => {
  const canonical = deps.models.admit(caller, order.model)
  const learnt = deps.learnt.of(canonical)
  const measured = measure(order)
  const foreseen = weigh(order, canonical, learnt, measured, undefined)
  if (!order.needs && foreseen.prompts.every(fitsAlways)) return foreseen
  return deps.upstream.describe(canonical).then(facts => {
    if (facts === undefined) return foreseen
    // What a model lacks changes settings only, so a prompt's measures stay.
    return weigh(order.fit(facts), canonical, learnt, measured, facts.contextLength)
  })
}

const fitsAlways = ({ promptEstimate }: Prompt) => promptEstimate <= CONTEXT_ALWAYS_FITS

const toRuns = ({ order, prompts, contextLength, heldBack }: Foreseen, refuseTruncation: boolean): Run[] =>
  order.requests.map((request, index) => {
    if (refuseTruncation) request.truncate = false
    return {
      request,
      ...(prompts[index] as Prompt),
      constrained: 'format' in request,
      heldBack,
      contextLength,
      large: order.large?.body,
    }
  })

/** Says that a prompt will be cut. */
export const TRUNCATED_HEADER = ['x-prompt-truncated', 'estimated'] as const

/** Puts on the context what the order will need; nothing is reserved or sent yet. */
export const prepare = (deps: PrepareDeps): MiddlewareHandler<PreparedEnv> =>
  async function prepareRequest(c, next) {
    const foreseen = await foresee(deps, c.get('caller'), c.get('order'))
    const { order, canonical, learnt, contextLength, forecast } = foreseen
    if (foreseen.isTruncated) c.header(...TRUNCATED_HEADER)
    c.set('ask', { forecast, model: canonical })
    const runs = toRuns(foreseen, deps.refuseTruncation)
    c.set('prepared', { order, canonical, learnt, contextLength, runs })
    await next()
  }

const nothing = () => undefined

/**
 * The same by a request's path and body, for who must know before the app has seen it: at once where Ollama need not
 * be asked; undefined for what the app refuses for another reason, which it will find itself.
 */
export const createForesight =
  (deps: PrepareDeps, dialects: Readonly<Record<string, ToOrder>>) =>
  (
    caller: Caller,
    path: string,
    bytes: Uint8Array,
  ): Foresight | undefined | Promise<Foresight | undefined> => {
    try {
      const order = dialects[path]?.(parseJson(bytes))
      const foreseen = order && foresee(deps, caller, order)
      return foreseen instanceof Promise ? foreseen.catch(nothing) : foreseen
    } catch {
      return undefined
    }
  }
