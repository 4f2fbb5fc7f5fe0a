/** `/admin/users`: make, list, show and delete users. */
import { Hono } from 'hono'
import { z } from 'zod'
import type { Config } from '../config.ts'
import { ApiError, invalid } from '../errors.ts'
import type { WindowStore } from '../limits/admission.ts'
import type { Principals } from '../principals.ts'
import type { Relay } from '../relay.ts'
import type { Totals } from '../store/report-parts.ts'
import type { Reports } from '../store/reports.ts'
import type { Store, User } from '../store/store.ts'
import { findUser, type UserEnv, userId } from './admin-user.ts'
import { createNewKey, type KeyDeps, toKeyBody } from './new-key.ts'
import { ownBody } from './own-body.ts'
import { pageSize, query, toIso, toList } from './query.ts'
import { limitFields, toLimits, toLimitsBody } from './user-limits.ts'

export type AdminUsersDeps = KeyDeps & {
  config: Pick<Config, 'defaultLimits'>
  store: Store
  reports: Reports
  windows: WindowStore
  principals: Principals
  relay: Relay
  now: () => number
}

const newUser = z.strictObject({
  // Reports show deleted users so; a living user of that name could not be told from one of them.
  user_id: userId.refine(
    text => !/^deleted-\d+$/.test(text),
    "'deleted-' and a number stands for deleted users in reports",
  ),
  limits: limitFields.exactOptional(),
})

const listQuery = z.strictObject({
  limit: pageSize,
  after: userId.exactOptional(),
  q: z
    .string()
    .regex(/^[A-Za-z0-9._-]{0,64}$/)
    .exactOptional(),
})

const toUserBody = ({ userId, createdAt, keys, limits }: User, totals: Totals | undefined) => ({
  user_id: userId,
  created_at: toIso(createdAt),
  keys,
  limits: toLimitsBody(userId, limits),
  usage: {
    total_tokens: totals?.total_tokens ?? 0,
    request_count: totals?.request_count ?? 0,
    total_cost: totals?.total_cost ?? 0,
  },
})

export const adminUsers = (deps: AdminUsersDeps) => {
  const { config, store, reports, windows, principals, relay, now } = deps

  /** Ends what deleted users still have running, before their windows go: a stream must not end as if it were cut. */
  const endAccess = async (numbers: readonly number[]) => {
    principals.forget()
    const gone = new ApiError('user_deleted', 'This user has been deleted.')
    await Promise.all(numbers.map(number => relay.stop(gone, 'cancelled', number)))
    for (const number of numbers) windows.forget(number)
  }

  return new Hono<UserEnv>()
    .post('/', ownBody(newUser), async c => {
      const { user_id, limits: given } = c.req.valid('json')
      const limits = { ...config.defaultLimits, ...toLimits(given ?? {}) }
      const { apiKey, key } = createNewKey(deps, user_id)
      const nowMs = now()
      const created = await store.createUser(user_id, limits, key, nowMs)
      if (created === undefined) {
        throw new ApiError('user_exists', `There is already a user '${user_id}'.`, { param: 'user_id' })
      }
      const body = {
        user_id,
        api_key: apiKey,
        key: toKeyBody(created.key),
        limits: toLimitsBody(user_id, limits),
        created_at: toIso(nowMs),
      }
      return c.json(body, 201)
    })
    .get('/', query(listQuery), async c => {
      const { limit, after, q } = c.req.valid('query')
      if (after !== undefined && (await store.findUser(after)) === undefined) {
        throw invalid('after', "Invalid value for 'after': there is no such user any more.")
      }
      const rows = await store.listUsers({
        limit: limit + 1,
        ...(after === undefined ? {} : { after }),
        ...(q === undefined ? {} : { prefix: q }),
      })
      const totals = await reports.totals(rows.map(user => user.userNumber))
      const list = toList(rows, {
        limit,
        idOf: user => user.userId,
        show: user => toUserBody(user, totals.get(user.userNumber)),
      })
      return c.json({ ...list, users: list.data })
    })
    .delete('/', query(z.strictObject({ confirm: z.literal('all') })), async c => {
      const numbers = await store.deleteAllUsers(now())
      await endAccess(numbers)
      await store.erasePreviews()
      return c.json({ deleted: numbers.length })
    })
    .get('/:user_id', findUser(store), async c => {
      const user = c.get('user')
      const totals = await reports.totals([user.userNumber])
      return c.json(toUserBody(user, totals.get(user.userNumber)))
    })
    .delete('/:user_id', findUser(store), async c => {
      const { userId } = c.get('user')
      const number = await store.deleteUser(userId, now())
      // Undefined when somebody else's deletion came first: then all is done already.
      if (number !== undefined) {
        await endAccess([number])
        await store.erasePreviews(number)
      }
      return c.json({ id: userId, deleted: true })
    })
}
