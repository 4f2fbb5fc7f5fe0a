/** Request keys: `sk-{user_id}-{random}`, shown once; only the hash and a display prefix are kept. */

import { toKeyId } from '../ids.ts'
import type { Key, NewKey } from '../store/store.ts'
import { toIso, toIsoOrNull } from './query.ts'

export type KeyDeps = { newSecret: () => string; sha256: (text: string) => string }
/** Null where a key has none. */
export type KeyOptions = Partial<Pick<NewKey, 'name' | 'expiresAt' | 'models'>>

/** A new key of a user: in plain for its owner, and as it is stored. */
export const createNewKey = ({ newSecret, sha256 }: KeyDeps, userId: string, options: KeyOptions = {}) => {
  const apiKey = `sk-${userId}-${newSecret()}`
  const key: NewKey = {
    hash: sha256(apiKey),
    prefix: `sk-${userId}-…${apiKey.slice(-4)}`,
    name: options.name ?? null,
    expiresAt: options.expiresAt ?? null,
    models: options.models ?? null,
  }
  return { apiKey, key }
}

export const toKeyBody = (key: Key) => ({
  id: toKeyId(key.id),
  prefix: key.prefix,
  name: key.name,
  created_at: toIso(key.createdAt),
  expires_at: toIsoOrNull(key.expiresAt),
  last_used_at: toIsoOrNull(key.lastUsedAt),
  models: key.models,
})
