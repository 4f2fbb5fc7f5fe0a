/** What a client may ask about its own account. */
import { Hono, type MiddlewareHandler } from 'hono'
import type { Models } from '../models.ts'
import type { Reports } from '../store/reports.ts'
import type { Upstream } from '../upstream/ollama.ts'
import type { AppEnv } from './env.ts'
import { modelRoutes } from './model-list.ts'
import { toPriceBody } from './price.ts'
import { asked, query, toRange } from './query.ts'
import { createLimitsView, type LimitsDeps } from './user-limits.ts'
import { historyQuery, rangeQuery } from './user-usage.ts'

export type AccountDeps = LimitsDeps & {
  /** Stands before each handler and not before the path, so that 404 and 405 need no key. */
  client: MiddlewareHandler<AppEnv>
  reports: Reports
  upstream: Upstream
  models: Models
}

export const accountRoutes = (deps: AccountDeps) => {
  const { client, store, reports } = deps
  const limits = createLimitsView(deps)

  return new Hono<AppEnv>()
    .get('/usage', client, query(rangeQuery), async c => {
      const { userId, userNumber } = c.get('caller').account
      const usage = await asked(reports.usage(userNumber, toRange(c.req.valid('query'))))
      return c.json({ user_id: userId, ...usage })
    })
    .get('/usage/summary', client, query(rangeQuery), async c => {
      const { userId, userNumber } = c.get('caller').account
      const usage = await asked(reports.usage(userNumber, toRange(c.req.valid('query'))))
      const { total_tokens, total_cost, by_model } = usage
      return c.json({ user_id: userId, total_tokens, total_cost, by_model })
    })
    .get('/usage/history', client, query(historyQuery), async c => {
      const { userNumber } = c.get('caller').account
      return c.json(await asked(reports.history(userNumber, c.req.valid('query'))))
    })
    .get('/limits', client, async c => c.json(await limits(c.get('caller').account)))
    .get('/pricing', client, async c => c.json({ pricing: (await store.listPrices()).map(toPriceBody) }))
    .route('/models', modelRoutes(deps))
}
