/**
 * Metered completions, whatever the dialect: prepare (pure translation, estimate) → limit → complete. A dialect hands
 * in an Order; what it means for keys, limits and the bill is the same for all.
 */
import type { Context, MiddlewareHandler } from 'hono'
import type { Job, Run } from '../flight.ts'
import { toCompletionId } from '../ids.ts'
import { measurePrompt } from '../limits/estimate.ts'
import type { Forecast } from '../limits/forecast.ts'
import type { Learnt, ModelLearnt } from '../limits/learnt.ts'
import type { Models } from '../models.ts'
import type { Relay } from '../relay.ts'
import type { Kind } from '../store/ledger.ts'
import { toApiError as toUpstreamFault } from '../upstream/faults.ts'
import type { ModelFacts, Upstream } from '../upstream/ollama.ts'
import type { OllamaChatRequest, OllamaGenerateRequest, OllamaRequest } from '../wire/ollama.ts'
import type { Writer } from '../wire/writer.ts'
import { type AppEnv, type Ask, earlyBodyOf } from './env.ts'
import type { ImageLoader, RequestImages } from './images.ts'
import type { LargeChat } from './large-body.ts'

export type AnswerIdentity = { id: string; created: number; model: string }

/** A completion as its dialect prepared it. */
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
  large?: LargeChat
}

export type MeteredDeps = {
  learnt: Learnt
  models: Models
  upstream: Upstream
  relay: Relay
  images: ImageLoader
  refuseTruncation: boolean
  previewChars: number
}

type Prepared = {
  order: Order
  canonical: string
  learnt: ModelLearnt
  runs: Run[]
  contextLength: number | undefined
}
type MeteredEnv = AppEnv & { Variables: AppEnv['Variables'] & { prepared: Prepared } }

/** Shorter prompts fit any context a model is run with; for longer ones Ollama is asked how long it is. */
const CONTEXT_ALWAYS_FITS = 256

const toRuns = (order: Order, learnt: ModelLearnt, contextLength: number | undefined): Run[] => {
  const measured = new Map<unknown, ReturnType<typeof measurePrompt>>()
  return order.requests.map(request => {
    // Choices of one prompt share their messages: measured once.
    const subject =
      'messages' in request ? request.messages : 'prompt' in request ? request.prompt : request.input
    const features = order.large?.outline.features ?? measured.get(subject) ?? measurePrompt(request)
    measured.set(subject, features)
    return {
      request,
      features,
      promptEstimate: learnt.estimatePrompt(features, contextLength),
      promptExpected: learnt.expectPrompt(features, contextLength),
      constrained: 'format' in request,
      contextLength,
      large: order.large?.body,
    }
  })
}

const toForecast = (
  { kind, maxTokens }: Pick<Order, 'kind' | 'maxTokens'>,
  prompts: readonly Pick<Run, 'promptEstimate' | 'promptExpected'>[],
  learnt: ModelLearnt,
): Forecast => {
  const usual =
    kind === 'embedding' ? 0 : Math.min(learnt.usualAnswer(), maxTokens ?? Number.POSITIVE_INFINITY)
  return {
    prompt: prompts.reduce((sum, { promptEstimate }) => sum + promptEstimate, 0),
    promptExpected: prompts.reduce((sum, { promptExpected }) => sum + promptExpected, 0),
    usual: usual * prompts.length,
  }
}

/**
 * The forecast for the same request later, made of its measures and the model's context; undefined when a prompt may
 * be longer than that by now, or so long that Ollama must be asked.
 */
const toForecastAgain = (
  learnt: Learnt,
  { order, canonical, runs, contextLength }: Prepared,
): (() => Forecast | undefined) => {
  const { kind, maxTokens } = order
  const measures = runs.map(run => run.features)
  let asOf = -1
  let forecast: Forecast | undefined
  return () => {
    if (forecast !== undefined && asOf === learnt.observations) return forecast
    const model = learnt.of(canonical)
    const prompts = measures.map(features => ({
      promptEstimate: model.estimatePrompt(features, contextLength),
      promptExpected: model.expectPrompt(features, contextLength),
    }))
    const longest = contextLength ?? CONTEXT_ALWAYS_FITS
    if (measures.some(features => model.estimatePrompt(features) > longest)) return undefined
    asOf = learnt.observations
    forecast = toForecast({ kind, maxTokens }, prompts, model)
    return forecast
  }
}

/** Translates the checked body and says what it will need; nothing is reserved or sent yet. */
export const prepare = (
  deps: MeteredDeps,
  toOrder: (body: unknown, c: Context<AppEnv>) => Order,
): MiddlewareHandler<MeteredEnv> =>
  async function prepareOrder(c, next) {
    let order = toOrder(c.get('body'), c as unknown as Context<AppEnv>)
    const canonical = deps.models.admit(c.get('caller'), order.model)
    const learnt = deps.learnt.of(canonical)
    let runs = toRuns(order, learnt, undefined)
    let contextLength: number | undefined
    let truncated = false
    if (order.needs || runs.some(run => run.promptEstimate > CONTEXT_ALWAYS_FITS)) {
      const facts = await deps.upstream.describe(canonical)
      if (facts !== undefined) {
        order = order.fit(facts)
        contextLength = facts.contextLength
        const limit = contextLength
        truncated = limit !== undefined && runs.some(run => run.promptEstimate > limit)
        if (truncated) c.header('x-prompt-truncated', 'estimated')
        runs = toRuns(order, learnt, contextLength)
      }
    }
    if (deps.refuseTruncation) for (const { request } of runs) request.truncate = false
    const prepared = { order, canonical, learnt, runs, contextLength }
    const ask: Ask = { forecast: toForecast(order, runs, learnt), model: canonical }
    const early = earlyBodyOf(c)
    // A truncated prompt is told so in a header, which is the app's to write.
    if (early !== undefined && !truncated) {
      const { digest } = early
      ask.repeat = { path: c.req.path, digest, forecast: toForecastAgain(deps.learnt, prepared) }
    }
    c.set('ask', ask)
    c.set('prepared', prepared)
    await next()
  }

const sseHeaders = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no',
}
/** The field that a fault of the prompt is blamed on. */
const promptParams = { chat: 'messages', completion: 'prompt', embedding: 'input' } as const
const jsonHeaders = { 'content-type': 'application/json' }

const hasImages = ({ images }: Order) => images.refs.length + images.inline.length > 0

/** Runs what `limit` admitted and answers in the order's dialect. */
export const complete = (deps: MeteredDeps) => async (c: Context<MeteredEnv>) => {
  const { order, canonical, learnt, runs, contextLength } = c.get('prepared')
  const ticket = c.get('ticket')
  const { signal } = c.req.raw
  const [first] = runs
  if (first !== undefined && 'messages' in first.request && hasImages(order)) {
    const preparing = deps.relay.until(ticket.userNumber, signal)
    await deps.images.load(order.images, first.request.messages, preparing.signal).finally(preparing.release)
  }
  if (order.ignored.length > 0) c.header('x-ignored-parameters', order.ignored.join(', '))
  const id = toCompletionId(order.kind, ticket.id)
  const writer = order.createWriter({ id, created: Math.floor(ticket.arrivedMs / 1000), model: order.model })
  const context = {
    model: order.model,
    usesImages: hasImages(order),
    promptParam: promptParams[order.kind],
    contextLength,
    promptTokens: first?.promptEstimate,
  }
  const body = await deps.relay.answer(
    {
      kind: order.kind,
      path: order.path,
      model: canonical,
      runs,
      maxTokens: order.maxTokens,
      stream: order.stream,
      writer,
      toFault: (status, text) => toUpstreamFault(status, text, context),
      preview: deps.previewChars > 0 ? [...order.lastPrompt].slice(0, deps.previewChars).join('') : null,
    },
    ticket,
    learnt,
    signal,
  )
  return typeof body === 'string' ? c.body(body, 200, jsonHeaders) : c.body(body, 200, sseHeaders)
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
