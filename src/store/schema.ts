/**
 * The tables; the sole input of drizzle-kit. snake_case in SQL, camelCase here.
 *
 * Instants are epoch milliseconds, money is whole 10^-12 units of the currency, held in two columns
 * (`micro`: whole 10^-6 units, `pico`: the rest, below 1,000,000) so that no sum can overflow 64 bits.
 * Names (users, models) stand once; ledger rows hold integers: 75 bytes a row at ten million rows.
 */
import { index, integer, primaryKey, sqliteTable, text } from 'drizzle-orm/sqlite-core'

/** The surrogate that ledger rows refer to: never reused, so the same user id created again starts from zero. */
export const userNumbers = sqliteTable('user_numbers', {
  number: integer().primaryKey({ autoIncrement: true }),
  deletedAt: integer(),
})

export const users = sqliteTable('users', {
  userId: text().primaryKey(),
  number: integer()
    .notNull()
    .unique()
    .references(() => userNumbers.number),
  createdAt: integer().notNull(),
})

/** A revoked key keeps its row (ledger rows refer to it) but loses its hash, so it can never match again. */
export const apiKeys = sqliteTable(
  'api_keys',
  {
    id: integer().primaryKey({ autoIncrement: true }),
    userNumber: integer()
      .notNull()
      .references(() => userNumbers.number),
    hash: text().unique(),
    prefix: text().notNull(),
    name: text(),
    models: text({ mode: 'json' }).$type<string[]>(),
    createdAt: integer().notNull(),
    expiresAt: integer(),
    revokedAt: integer(),
    lastUsedAt: integer(),
  },
  table => [index('api_keys_user').on(table.userNumber)],
)

/** One row per user; null is unlimited, 0 is nothing. */
export const rateLimits = sqliteTable('rate_limits', {
  userId: text()
    .primaryKey()
    .references(() => users.userId, { onDelete: 'cascade' }),
  requestsPerMinute: integer(),
  requestsPerDay: integer(),
  tokensPerMinute: integer(),
  tokensPerDay: integer(),
  totalTokenLimit: integer(),
})

/** Canonical model names (see wire/model-name.ts), once. */
export const models = sqliteTable('models', {
  id: integer().primaryKey({ autoIncrement: true }),
  name: text().notNull().unique(),
})

/** Prices in 10^-12 units a token: a price per million times 10^6, a whole number for six decimals. */
export const prices = sqliteTable('prices', {
  model: text().primaryKey(),
  inputPrice: integer().notNull(),
  outputPrice: integer().notNull(),
  createdAt: integer().notNull(),
  updatedAt: integer().notNull(),
})

/** Append-only; a deletion is a row with null prices. */
export const priceHistory = sqliteTable(
  'price_history',
  {
    id: integer().primaryKey({ autoIncrement: true }),
    model: text().notNull(),
    inputPrice: integer(),
    outputPrice: integer(),
    changedBy: text().notNull(),
    changedAt: integer().notNull(),
  },
  table => [index('price_history_model').on(table.model)],
)

/**
 * Requests that were admitted and are not closed yet: small and hot, so that `usage` rows are never rewritten.
 * What stands here after a start was cut off by a crash.
 */
export const openRequests = sqliteTable('open_requests', {
  id: integer().primaryKey(),
  userNumber: integer().notNull(),
  keyId: integer().notNull(),
  modelId: integer().notNull(),
  kind: integer().notNull(),
  admittedAfterMs: integer().notNull(),
  queueMs: integer().notNull(),
  inputPrice: integer().notNull(),
  outputPrice: integer().notNull(),
  /** Reserved: the prompt's estimate, and all output granted so far. */
  promptPromised: integer().notNull(),
  completionPromised: integer().notNull(),
  /** What a crash is billed: what was delivered by the last checkpoint, `checkpointMs` after its arrival (0: none yet), counted by us. */
  promptCounted: integer().notNull(),
  completionCounted: integer().notNull(),
  checkpointMs: integer().notNull(),
})

/**
 * The ledger: one closed row per request, never rewritten. `id` = start in epoch ms × 1024 + sequence: time index,
 * cursor and public id at once. Every SQLite index ends with the rowid, so `usage_user` is (user, id).
 */
export const usage = sqliteTable(
  'usage',
  {
    id: integer().primaryKey(),
    userNumber: integer().notNull(),
    keyId: integer().notNull(),
    modelId: integer().notNull(),
    kind: integer().notNull(),
    outcome: integer().notNull(),
    basis: integer().notNull(),
    promptTokens: integer().notNull(),
    completionTokens: integer().notNull(),
    costMicro: integer().notNull(),
    costPico: integer().notNull(),
    admittedAfterMs: integer().notNull(),
    queueMs: integer().notNull(),
    firstTokenMs: integer(),
    durationMs: integer().notNull(),
    loadUs: integer().notNull(),
    promptEvalUs: integer().notNull(),
    evalUs: integer().notNull(),
  },
  table => [index('usage_user').on(table.userNumber)],
)

/** Only where PROMPT_PREVIEW_CHARS is set; erased with the user. */
export const promptPreviews = sqliteTable(
  'prompt_previews',
  {
    id: integer().primaryKey(),
    userNumber: integer().notNull(),
    text: text().notNull(),
  },
  table => [index('prompt_previews_user').on(table.userNumber)],
)

const sums = {
  requests: integer().notNull(),
  promptTokens: integer().notNull(),
  completionTokens: integer().notNull(),
  costMicro: integer().notNull(),
  costPico: integer().notNull(),
  gpuUs: integer().notNull(),
}

/** Lifetime sums; the total limit and `/v1/usage` without a range are read from here. */
export const usageByUser = sqliteTable(
  'usage_by_user',
  { userNumber: integer().notNull(), modelId: integer().notNull(), ...sums },
  table => [primaryKey({ columns: [table.userNumber, table.modelId] })],
)

/**
 * `hour` = epoch ms / 3,600,000. A row belongs to the hour of its start. `lastEndMs`: when the last request of the
 * cell ended, so that the windows' rebuild finds the oldest hour that still matters without reading the ledger.
 */
export const usageByHour = sqliteTable(
  'usage_by_hour',
  { hour: integer().notNull(), modelId: integer().notNull(), ...sums, lastEndMs: integer().notNull() },
  table => [primaryKey({ columns: [table.hour, table.modelId] })],
)

/** `day` = epoch ms / 86,400,000. Led by the day: today's cells are neighbours, so few pages get dirty. */
export const usageByDay = sqliteTable(
  'usage_by_day',
  { day: integer().notNull(), userNumber: integer().notNull(), modelId: integer().notNull(), ...sums },
  table => [primaryKey({ columns: [table.day, table.userNumber, table.modelId] })],
)

/** What is left of rows past USAGE_RETENTION_DAYS: hourly sums that keep user, key, model and outcome. */
export const usageArchive = sqliteTable(
  'usage_archive',
  {
    hour: integer().notNull(),
    userNumber: integer().notNull(),
    keyId: integer().notNull(),
    modelId: integer().notNull(),
    outcome: integer().notNull(),
    ...sums,
  },
  table => [
    primaryKey({ columns: [table.hour, table.userNumber, table.keyId, table.modelId, table.outcome] }),
  ],
)

/** All that was promised to requests that a crash cut off: the windows count this for a day, though the bill is lower. */
export const crashGrants = sqliteTable('crash_grants', {
  id: integer().primaryKey(),
  userNumber: integer().notNull(),
  atMs: integer().notNull(),
  tokens: integer().notNull(),
})

/** What was learnt of a model (limits/estimate.ts, limits/count.ts): an opaque JSON text per model. */
export const modelStats = sqliteTable('model_stats', {
  modelId: integer().primaryKey(),
  learnt: text().notNull(),
})
