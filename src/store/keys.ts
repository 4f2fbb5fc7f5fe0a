/** A user's API keys. A revoked one keeps its row, as ledger rows refer to it, but can never match again. */
import { and, desc, eq, isNull, lt } from 'drizzle-orm'
import type { SyncDatabase } from './database.ts'
import { apiKeys } from './schema.ts'
import type { NewKey, Store } from './store.ts'

type KeyStore = Pick<Store, 'createKey' | 'listKeys' | 'updateKey' | 'revokeKey'>

const keyColumns = {
  id: apiKeys.id,
  prefix: apiKeys.prefix,
  name: apiKeys.name,
  createdAt: apiKeys.createdAt,
  expiresAt: apiKeys.expiresAt,
  lastUsedAt: apiKeys.lastUsedAt,
  models: apiKeys.models,
}

export const insertKey = (db: SyncDatabase, userNumber: number, key: NewKey, nowMs: number) =>
  db
    .insert(apiKeys)
    .values({ ...key, userNumber, createdAt: nowMs })
    .returning(keyColumns)

export const createKeyStore = (db: SyncDatabase): KeyStore => ({
  async createKey(userNumber, key, nowMs) {
    const [created] = await insertKey(db, userNumber, key, nowMs)
    if (created === undefined) throw new Error('an insert returned no row')
    return created
  },
  async listKeys(userNumber, { limit, after }) {
    return await db
      .select(keyColumns)
      .from(apiKeys)
      .where(
        and(
          eq(apiKeys.userNumber, userNumber),
          isNull(apiKeys.revokedAt),
          after === undefined ? undefined : lt(apiKeys.id, after),
        ),
      )
      .orderBy(desc(apiKeys.id))
      .limit(limit)
  },
  async updateKey(userNumber, keyId, change) {
    const live = and(eq(apiKeys.id, keyId), eq(apiKeys.userNumber, userNumber), isNull(apiKeys.revokedAt))
    const rows =
      Object.keys(change).length === 0
        ? await db.select(keyColumns).from(apiKeys).where(live)
        : await db.update(apiKeys).set(change).where(live).returning(keyColumns)
    return rows.at(0)
  },
  async revokeKey(userNumber, keyId, nowMs) {
    const revoked = await db
      .update(apiKeys)
      .set({ hash: null, revokedAt: nowMs })
      .where(and(eq(apiKeys.id, keyId), eq(apiKeys.userNumber, userNumber), isNull(apiKeys.revokedAt)))
      .returning({ id: apiKeys.id })
    return revoked.length > 0
  },
})
