/** What the rest asks of the database, apart from the ledger's hot path: a few functions, each one atomic statement. */
import { and, desc, eq, inArray, isNotNull, lt, type SQLWrapper, sql } from 'drizzle-orm'
import type { Limits } from '../limits/admission.ts'
import { atomically, type SyncDatabase } from './database.ts'
import { createKeyStore, insertKey } from './keys.ts'
import { createPriceStore } from './prices.ts'
import {
  apiKeys,
  modelStats,
  models,
  promptPreviews,
  rateLimits,
  usageByUser,
  userNumbers,
  users,
} from './schema.ts'

/** Who a request acts for: read once by the key's hash, cached by http/auth.ts until something about it changes. */
export type Principal = {
  userId: string
  userNumber: number
  keyId: number
  limits: Limits
  /** Canonical model names the key may use; null: all. */
  models: string[] | null
  expiresAt: number | null
}

export type User = { userId: string; userNumber: number; createdAt: number; keys: number; limits: Limits }

export type Key = {
  id: number
  prefix: string
  name: string | null
  createdAt: number
  expiresAt: number | null
  lastUsedAt: number | null
  models: string[] | null
}

export type NewKey = {
  hash: string
  prefix: string
  name: string | null
  expiresAt: number | null
  models: string[] | null
}

/** 10^-12 units a token. */
export type Price = {
  model: string
  inputPrice: number
  outputPrice: number
  createdAt: number
  updatedAt: number
}
export type PriceChange = {
  id: number
  model: string
  inputPrice: number | null
  outputPrice: number | null
  changedBy: string
  changedAt: number
}

export interface Store {
  /** One indexed read by SHA-256 of the key (hex): user, key and limits. Revoked keys are not found; expired ones are. */
  findPrincipal(keyHash: string): Promise<Principal | undefined>
  /** The user with its first key, or undefined when the id is taken. Fills `userNumber`. */
  createUser(
    userId: string,
    limits: Limits,
    key: NewKey,
    nowMs: number,
  ): Promise<{ userNumber: number; key: Key } | undefined>
  findUser(userId: string): Promise<User | undefined>
  /** Newest first (by number), ids beginning with `prefix`; `after` is the userId of the last one seen. */
  listUsers(page: { limit: number; after?: string; prefix?: string }): Promise<User[]>
  /** Keys lose their hash, limits go; ledger rows stay. The user's number, undefined when there is none. */
  deleteUser(userId: string, nowMs: number): Promise<number | undefined>
  /** Numbers of the users deleted. */
  deleteAllUsers(nowMs: number): Promise<number[]>
  /** What previews a deleted user has left, or all deleted users: some at a time, as there may be millions. */
  erasePreviews(userNumber?: number): Promise<void>
  createKey(userNumber: number, key: NewKey, nowMs: number): Promise<Key>
  /** Newest first, without revoked ones. `after` is a key id. */
  listKeys(userNumber: number, page: { limit: number; after?: number }): Promise<Key[]>
  updateKey(
    userNumber: number,
    keyId: number,
    change: Partial<Pick<NewKey, 'name' | 'expiresAt' | 'models'>>,
  ): Promise<Key | undefined>
  revokeKey(userNumber: number, keyId: number, nowMs: number): Promise<boolean>
  updateLimits(userId: string, change: Partial<Limits>): Promise<Limits | undefined>
  /** The id of a canonical model name, made when missing. */
  modelId(name: string): Promise<number>
  /** The user's lifetime tokens by closed rows. */
  settledTotal(userNumber: number): Promise<number>
  listPrices(): Promise<Price[]>
  findPrice(model: string): Promise<Price | undefined>
  /** Creates or replaces, and appends to the history. */
  putPrice(
    model: string,
    price: { inputPrice: number; outputPrice: number },
    changedBy: string,
    nowMs: number,
  ): Promise<Price>
  deletePrice(model: string, changedBy: string, nowMs: number): Promise<boolean>
  /** Newest first. */
  priceHistory(model?: string): Promise<PriceChange[]>
  /** What was learnt per model name. */
  listLearnt(): Promise<{ model: string; text: string }[]>
  /** A real write, for /health: throws when the database can't be written. */
  probe(): Promise<void>
}

const limitColumns = {
  requestsPerMinute: rateLimits.requestsPerMinute,
  requestsPerDay: rateLimits.requestsPerDay,
  tokensPerMinute: rateLimits.tokensPerMinute,
  tokensPerDay: rateLimits.tokensPerDay,
  totalTokens: rateLimits.totalTokenLimit,
}

const toLimitRow = ({ totalTokens, ...windows }: Partial<Limits>) =>
  totalTokens === undefined ? windows : { ...windows, totalTokenLimit: totalTokens }

/** Erased at a time: a few milliseconds, so that a user with a million previews does not stop the streams. */
const PREVIEWS_ERASED = 1000

const otherWork = () => new Promise<void>(resolve => setTimeout(resolve, 0))

/** Id 0 is no request's. */
const PROBE_BYTES = 64 * 1024

export const createStore = (db: SyncDatabase): Store => {
  const principal = db
    .select({
      userId: users.userId,
      userNumber: users.number,
      keyId: apiKeys.id,
      limits: limitColumns,
      models: apiKeys.models,
      expiresAt: apiKeys.expiresAt,
    })
    .from(apiKeys)
    .innerJoin(users, eq(users.number, apiKeys.userNumber))
    .innerJoin(rateLimits, eq(rateLimits.userId, users.userId))
    .where(eq(apiKeys.hash, sql.placeholder('hash')))
    .prepare()
  const total = db
    .select({
      tokens: sql<number>`coalesce(sum(${usageByUser.promptTokens} + ${usageByUser.completionTokens}), 0)`,
    })
    .from(usageByUser)
    .where(eq(usageByUser.userNumber, sql.placeholder('userNumber')))
    .prepare()
  /** Names never lose their id, so what was read once holds. */
  const modelIds = new Map<string, number>()

  const liveKeys = sql<number>`(select count(*) from ${apiKeys}
    where ${apiKeys.userNumber} = ${users.number} and ${apiKeys.revokedAt} is null)`
  const userColumns = {
    userId: users.userId,
    userNumber: users.number,
    createdAt: users.createdAt,
    keys: liveKeys,
    limits: limitColumns,
  }
  const selectUsers = () =>
    db.select(userColumns).from(users).innerJoin(rateLimits, eq(rateLimits.userId, users.userId))

  /** The names go with the user: what is left of a key is its number, which ledger rows refer to. */
  const bury = (numbers: number[] | SQLWrapper, nowMs: number) => {
    db.update(userNumbers).set({ deletedAt: nowMs }).where(inArray(userNumbers.number, numbers)).run()
    db.update(apiKeys)
      .set({ hash: null, prefix: '', name: null, revokedAt: nowMs })
      .where(inArray(apiKeys.userNumber, numbers))
      .run()
    db.delete(users).where(inArray(users.number, numbers)).run()
  }

  return {
    ...createKeyStore(db),
    ...createPriceStore(db),
    async findPrincipal(keyHash) {
      return (await principal.execute({ hash: keyHash })).at(0)
    },
    async createUser(userId, limits, key, nowMs) {
      return atomically(db, () => {
        const taken = db.select({ one: sql`1` }).from(users).where(eq(users.userId, userId)).all()
        if (taken.length > 0) return undefined
        const { number } = db.insert(userNumbers).values({}).returning().get()
        db.insert(users).values({ userId, number, createdAt: nowMs }).run()
        db.insert(rateLimits)
          .values({ userId, ...toLimitRow(limits) })
          .run()
        return { userNumber: number, key: insertKey(db, number, key, nowMs).get() }
      })
    },
    async findUser(userId) {
      return (await selectUsers().where(eq(users.userId, userId))).at(0)
    },
    async listUsers({ limit, after, prefix }) {
      return await selectUsers()
        .where(
          and(
            after === undefined
              ? undefined
              : lt(users.number, sql`(select number from users where user_id = ${after})`),
            prefix === undefined ? undefined : sql`substr(${users.userId}, 1, length(${prefix})) = ${prefix}`,
          ),
        )
        .orderBy(desc(users.number))
        .limit(limit)
    },
    async deleteUser(userId, nowMs) {
      return atomically(db, () => {
        const [user] = db.select().from(users).where(eq(users.userId, userId)).all()
        if (user !== undefined) bury([user.number], nowMs)
        return user?.number
      })
    },
    async deleteAllUsers(nowMs) {
      return atomically(db, () => {
        const living = db.select({ number: users.number }).from(users)
        const all = living.all().map(user => user.number)
        bury(living, nowMs)
        return all
      })
    },
    /** A crash in the midst is made good at the next start (see recovery.ts). */
    async erasePreviews(userNumber) {
      const deleted = db
        .select({ number: userNumbers.number })
        .from(userNumbers)
        .where(
          and(
            isNotNull(userNumbers.deletedAt),
            userNumber === undefined ? undefined : eq(userNumbers.number, userNumber),
          ),
        )
      for (;;) {
        const some = db
          .select({ id: promptPreviews.id })
          .from(promptPreviews)
          .where(inArray(promptPreviews.userNumber, deleted))
          .limit(PREVIEWS_ERASED)
        const erased = await db
          .delete(promptPreviews)
          .where(inArray(promptPreviews.id, some))
          .returning({ id: promptPreviews.id })
        if (erased.length < PREVIEWS_ERASED) return
        await otherWork()
      }
    },
    async updateLimits(userId, change) {
      const ofUser = eq(rateLimits.userId, userId)
      const rows =
        Object.keys(change).length === 0
          ? await db.select(limitColumns).from(rateLimits).where(ofUser)
          : await db.update(rateLimits).set(toLimitRow(change)).where(ofUser).returning(limitColumns)
      return rows.at(0)
    },
    async modelId(name) {
      const known = modelIds.get(name)
      if (known !== undefined) return known
      const [model] = await db
        .insert(models)
        .values({ name })
        .onConflictDoUpdate({ target: models.name, set: { name } })
        .returning({ id: models.id })
      if (model === undefined) throw new Error('an upsert returned no row')
      modelIds.set(name, model.id)
      return model.id
    },
    async settledTotal(userNumber) {
      return (await total.execute({ userNumber })).at(0)?.tokens ?? 0
    },
    async listLearnt() {
      return await db
        .select({ model: models.name, text: modelStats.learnt })
        .from(modelStats)
        .innerJoin(models, eq(models.id, modelStats.modelId))
    },
    async probe() {
      // As much as a group of rows writes, committed: what is rolled back or fits into a page would not see a full disk.
      const probe = { id: 0, userNumber: 0, text: '.'.repeat(PROBE_BYTES) }
      await db
        .insert(promptPreviews)
        .values(probe)
        .onConflictDoUpdate({ target: promptPreviews.id, set: probe })
      await db.delete(promptPreviews).where(eq(promptPreviews.id, 0))
    },
  }
}
