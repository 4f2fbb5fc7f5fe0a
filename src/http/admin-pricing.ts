/**
 * `/admin/pricing`: prices of models, and the history of their changes. Requests that run keep the price they began
 * with; the next one has the new price.
 *
 * A model's name in a path may hold `/` and `:`, percent-encoded or not, so it is the rest of the path. What begins
 * with `history/` is the history; a model of such a name needs its slash encoded. No route of its own tells them apart,
 * as routes that overlap would cost every request of the app hono's fast router.
 */
import { type Context, Hono, type MiddlewareHandler } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import type { Models } from '../models.ts'
import { toPerMillion } from '../pricing.ts'
import type { PriceChange, Store } from '../store/store.ts'
import { toCanonicalModel } from '../wire/model-name.ts'
import type { AppEnv } from './env.ts'
import { modelName } from './model-name.ts'
import { ownBody } from './own-body.ts'
import { perMillion, toPriceBody } from './price.ts'
import { toIso } from './query.ts'

/** There is one admin key; the history is ready for more. */
const CHANGED_BY = 'admin'

const newPrice = z.strictObject({
  model: modelName,
  input_cost_per_million: perMillion,
  output_cost_per_million: perMillion,
})

const priceChange = z
  .strictObject({
    input_cost_per_million: perMillion.exactOptional(),
    output_cost_per_million: perMillion.exactOptional(),
  })
  .refine(fields => Object.keys(fields).length > 0, {
    path: ['input_cost_per_million'],
    message: 'give input_cost_per_million, output_cost_per_million or both',
  })

const HISTORY = 'history/'
const MOUNT = '/pricing/'

/** Goes by the path as it was sent: `history%2F…` is a model. */
const asksHistory = ({ req }: Context<AppEnv>): boolean =>
  req.path.startsWith(HISTORY, req.path.indexOf(MOUNT) + MOUNT.length)

const READING = ['GET', 'HEAD', 'OPTIONS']

const keepHistory: MiddlewareHandler<AppEnv> = async (c, next) => {
  if (asksHistory(c) && !READING.includes(c.req.method)) {
    const allow = READING.join(', ')
    throw new ApiError('method_not_allowed', `${c.req.method} is not possible here, only ${allow}.`, {
      headers: { allow },
    })
  }
  await next()
}

const toPerMillionOrNull = (price: number | null) => (price === null ? null : toPerMillion(price))

const toHistoryBody = (changes: PriceChange[]) => ({
  history: changes.map(({ id, model, inputPrice, outputPrice, changedBy, changedAt }) => ({
    id,
    model,
    input_cost_per_million: toPerMillionOrNull(inputPrice),
    output_cost_per_million: toPerMillionOrNull(outputPrice),
    changed_by: changedBy,
    changed_at: toIso(changedAt),
  })),
})

/** One change at a time: a change of half a price reads the other half first. */
const createTurns = () => {
  let last: Promise<unknown> = Promise.resolve()
  return <Result>(act: () => Promise<Result>): Promise<Result> => {
    const turn = last.then(act)
    last = turn.catch(() => undefined)
    return turn
  }
}

export const adminPricing = ({ store, models, now }: { store: Store; models: Models; now: () => number }) => {
  const inTurn = createTurns()

  const put = async (model: string, price: { inputPrice: number; outputPrice: number }) => {
    const stored = await store.putPrice(model, price, CHANGED_BY, now())
    models.setPrice(model, { input: stored.inputPrice, output: stored.outputPrice })
    return toPriceBody(stored)
  }

  const find = async (model: string) => {
    const price = await store.findPrice(model)
    if (price === undefined) throw noPrice()
    return price
  }

  return new Hono<AppEnv>()
    .post('/', ownBody(newPrice), async c => {
      const {
        model,
        input_cost_per_million: inputPrice,
        output_cost_per_million: outputPrice,
      } = c.req.valid('json')
      return c.json(await inTurn(() => put(model, { inputPrice, outputPrice })), 201)
    })
    .get('/', async c => c.json({ pricing: (await store.listPrices()).map(toPriceBody) }))
    .use('/:model{.+}', keepHistory)
    .get('/:model{.+}', async c => {
      const name = c.req.param('model')
      if (!asksHistory(c)) return c.json(toPriceBody(await find(toCanonicalModel(name))))
      const model = name.slice(HISTORY.length)
      const changes = await store.priceHistory(model === 'all' ? undefined : toCanonicalModel(model))
      return c.json(toHistoryBody(changes))
    })
    .put('/:model{.+}', ownBody(priceChange), async c => {
      const { input_cost_per_million: input, output_cost_per_million: output } = c.req.valid('json')
      const change = async () => {
        const { model, inputPrice, outputPrice } = await find(toCanonicalModel(c.req.param('model')))
        return put(model, { inputPrice: input ?? inputPrice, outputPrice: output ?? outputPrice })
      }
      return c.json(await inTurn(change))
    })
    .delete('/:model{.+}', async c => {
      const model = toCanonicalModel(c.req.param('model'))
      const remove = async () => {
        if (!(await store.deletePrice(model, CHANGED_BY, now()))) throw noPrice()
        models.setPrice(model, undefined)
      }
      await inTurn(remove)
      return c.json({ model, deleted: true })
    })
}

const noPrice = () => new ApiError('price_not_found', 'This model has no price.')
