/** The last step of a metered request: what `limit` admitted is run and answered in the order's dialect. */
import type { Context } from 'hono'
import { toCompletionId } from '../ids.ts'
import type { Relay } from '../relay.ts'
import { toApiError as toUpstreamFault } from '../upstream/faults.ts'
import type { ImageLoader } from './images.ts'
import type { Order } from './order.ts'
import type { PreparedEnv } from './prepare.ts'

export type CompleteDeps = {
  relay: Relay
  images: ImageLoader
  previewChars: number
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

export const complete = (deps: CompleteDeps) => async (c: Context<PreparedEnv>) => {
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
