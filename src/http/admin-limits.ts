/** `/admin/users/{id}/limits`. */
import { Hono } from 'hono'
import type { Principals } from '../principals.ts'
import { findUser, type UserEnv } from './admin-user.ts'
import { ownBody } from './own-body.ts'
import { notFound } from './query.ts'
import {
  createLimitsView,
  type LimitsDeps,
  limitFieldNames,
  limitFields,
  toLimits,
  toLimitsBody,
} from './user-limits.ts'

const someLimits = limitFields.refine(fields => Object.keys(fields).length > 0, {
  path: ['requests_per_minute'],
  message: `give at least one of ${limitFieldNames.join(', ')}`,
})

export const adminLimits = (deps: LimitsDeps & { principals: Principals }) => {
  const { store, principals } = deps
  const view = createLimitsView(deps)
  const user = findUser(store)

  return new Hono<UserEnv>()
    .get('/:user_id/limits', user, async c => c.json(await view(c.get('user'))))
    .put('/:user_id/limits', user, ownBody(someLimits), async c => {
      const { userId, userNumber } = c.get('user')
      const limits = await store.updateLimits(userId, toLimits(c.req.valid('json')))
      if (limits === undefined) throw notFound()
      principals.setLimits(userNumber, limits)
      // Keys that were looked up while the limits changed may have been given the old ones.
      principals.forget()
      return c.json(toLimitsBody(userId, limits))
    })
}
