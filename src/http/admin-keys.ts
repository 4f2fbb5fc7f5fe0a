/** `/admin/users/{id}/keys`: several keys a user, each with an expiry and a list of models of its own. */
import { Hono } from 'hono'
import { z } from 'zod'
import { invalid } from '../errors.ts'
import { parseKeyId, toKeyId } from '../ids.ts'
import type { Principals } from '../principals.ts'
import type { Store } from '../store/store.ts'
import { findUser, type UserEnv } from './admin-user.ts'
import { modelName } from './model-name.ts'
import { createNewKey, type KeyDeps, type KeyOptions, toKeyBody } from './new-key.ts'
import { ownBody } from './own-body.ts'
import { cursor, instant, notFound, pageSize, query, toList } from './query.ts'

export type AdminKeysDeps = KeyDeps & { store: Store; principals: Principals; now: () => number }

const NAME_LENGTH_MAX = 200
const MODELS_MAX = 1000

/** An empty list is refused, as half of its readers take it for "all models" and half for "none". */
const modelList = z
  .array(modelName)
  .min(1)
  .max(MODELS_MAX)
  .transform(names => [...new Set(names)])

const keyFields = z.strictObject({
  name: z.string().min(1).max(NAME_LENGTH_MAX).nullable().exactOptional(),
  expires_at: instant.nullable().exactOptional(),
  models: modelList.nullable().exactOptional(),
})

/** What a body says of a key: absent says nothing, null clears. @throws ApiError 400 for an expiry that has passed */
const toOptions = ({ expires_at, ...rest }: z.output<typeof keyFields>, nowMs: number): KeyOptions => {
  if (expires_at === undefined) return rest
  if (expires_at !== null && expires_at <= nowMs) {
    throw invalid('expires_at', "Invalid value for 'expires_at': it must lie in the future.")
  }
  return { ...rest, expiresAt: expires_at }
}

export const adminKeys = (deps: AdminKeysDeps) => {
  const { store, principals, now } = deps
  const listQuery = z.strictObject({ limit: pageSize, after: cursor(parseKeyId).exactOptional() })
  const user = findUser(store)

  return new Hono<UserEnv>()
    .post('/:user_id/keys', user, ownBody(keyFields), async c => {
      const { userId, userNumber } = c.get('user')
      const nowMs = now()
      const { apiKey, key } = createNewKey(deps, userId, toOptions(c.req.valid('json'), nowMs))
      const created = await store.createKey(userNumber, key, nowMs)
      return c.json({ api_key: apiKey, key: toKeyBody(created) }, 201)
    })
    .get('/:user_id/keys', user, query(listQuery), async c => {
      const { limit, after } = c.req.valid('query')
      const page = { limit: limit + 1, ...(after === undefined ? {} : { after }) }
      const rows = await store.listKeys(c.get('user').userNumber, page)
      return c.json(toList(rows, { limit, idOf: key => toKeyId(key.id), show: toKeyBody }))
    })
    .patch('/:user_id/keys/:key_id', user, ownBody(keyFields), async c => {
      const keyId = parseKeyId(c.req.param('key_id'))
      const change = toOptions(c.req.valid('json'), now())
      const key =
        keyId === undefined ? undefined : await store.updateKey(c.get('user').userNumber, keyId, change)
      if (key === undefined) throw notFound()
      principals.forget()
      return c.json(toKeyBody(key))
    })
    .delete('/:user_id/keys/:key_id', user, async c => {
      const keyId = parseKeyId(c.req.param('key_id'))
      if (keyId === undefined || !(await store.revokeKey(c.get('user').userNumber, keyId, now())))
        throw notFound()
      principals.forget()
      return c.json({ id: toKeyId(keyId), deleted: true })
    })
}
