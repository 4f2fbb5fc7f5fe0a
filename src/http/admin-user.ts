/** The user whom a path of the admin API names. */
import type { MiddlewareHandler } from 'hono'
import { z } from 'zod'
import type { Store, User } from '../store/store.ts'
import { toInvalidRequest } from '../wire/invalid-request.ts'
import type { AppEnv } from './env.ts'
import { notFound } from './query.ts'

export const userId = z
  .string()
  .refine(
    text => /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(text),
    'expected 1 to 64 of the characters A-Z a-z 0-9 . _ -, beginning with a letter or digit',
  )

const path = z.object({ user_id: userId })

export type UserEnv = { Variables: AppEnv['Variables'] & { user: User } }

/** Finds the user of `:user_id`: 400 for what can't be an id, 404 for nobody. */
export const findUser = (store: Store): MiddlewareHandler<UserEnv> =>
  async function findUserOfPath(c, next) {
    const params = { user_id: c.req.param('user_id') }
    const parsed = path.safeParse(params)
    if (!parsed.success) throw toInvalidRequest(parsed.error, params)
    const user = await store.findUser(parsed.data.user_id)
    if (user === undefined) throw notFound()
    c.set('user', user)
    await next()
  }
