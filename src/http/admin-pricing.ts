/**
 * `/admin/pricing`: prices of models, and the history of their changes. Requests that run keep the price they began
 * with; the next one has the new price.
 *
 * A model's name in a path may hold `/` and `:`, percent-encoded or not, so it is the rest of the path. (A model of the
 * name `history/…` needs its slash encoded.)
 */
import { Hono } from 'hono'
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
    .get('/history/all', async c => c.json(toHistoryBody(await store.priceHistory())))
    .get('/history/:model{.+}', async c =>
      c.json(toHistoryBody(await store.priceHistory(toCanonicalModel(c.req.param('model'))))),
    )
    .get('/:model{.+}', async c => c.json(toPriceBody(await find(toCanonicalModel(c.req.param('model'))))))
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
