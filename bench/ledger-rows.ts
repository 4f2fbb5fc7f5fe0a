/** A ledger with a past, written by the very commit that writes it in production, only without waiting for the disk. */
import { openDatabase } from '../src/runtime/database.ts'
import { sha256 } from '../src/runtime/secrets.ts'
import type { Batch, Closing } from '../src/store/ledger.ts'
import { createStore } from '../src/store/store.ts'

export type Past = {
  rows: number
  users: number
  models: number
  /** Spread evenly over this span. */
  fromMs: number
  toMs: number
  /** The share of the rows that user 1 has; the others follow a curve from few to many. */
  heaviest: number
}

const DAY_MS = 86_400_000
/** One clock for a run: the questions are about the days that were filled. */
export const nowMs = Date.now()

/** What most ledgers look like after a year; how many rows it has is asked for. */
export const year: Omit<Past, 'rows'> = {
  users: 1000,
  models: 20,
  fromMs: nowMs - 365 * DAY_MS,
  toMs: nowMs,
  heaviest: 0.1,
}
/** All of it inside the longest window, which a start has to rebuild. */
export const crowd: Past = {
  rows: 1_000_000,
  users: 100_000,
  models: 20,
  fromMs: nowMs - DAY_MS,
  toMs: nowMs,
  heaviest: 0.1,
}

export const userId = (user: number) => `user${user}`
export const userKey = (user: number) => `sk-bench-${user}`
export const modelName = (model: number) => `model${model}`

const GROUP_ROWS = 5000
const unlimited = {
  requestsPerMinute: null,
  requestsPerDay: null,
  tokensPerMinute: null,
  tokensPerDay: null,
  totalTokens: null,
}

/** The same rows at every run (mulberry32). */
const createRandom = (seed: number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

const createRow = ({ rows, users, models, fromMs, toMs, heaviest }: Past) => {
  const random = createRandom(1)
  const upTo = (below: number) => Math.floor(random() * below)
  return (index: number): Closing => {
    const user = random() < heaviest ? 1 : 2 + Math.floor((users - 1) * random() ** 1.5)
    const promptTokens = 20 + upTo(2000)
    const completionTokens = 10 + upTo(800)
    const evalUs = completionTokens * (15_000 + upTo(5000))
    const promptEvalUs = promptTokens * (200 + upTo(100))
    const firstTokenMs = 20 + Math.ceil(promptEvalUs / 1000)
    return {
      id: Math.floor(fromMs + (index * (toMs - fromMs)) / rows) * 1024 + (index % 1024),
      userNumber: user,
      keyId: user,
      modelId: 1 + Math.floor(models * random() ** 2),
      kind: 'chat',
      outcome: random() < 0.95 ? 'completed' : 'cancelled',
      basis: 'measured',
      promptTokens,
      completionTokens,
      price: { input: 150_000, output: 600_000 },
      admittedAfterMs: 1,
      queueMs: upTo(20),
      firstTokenMs,
      durationMs: firstTokenMs + Math.ceil(evalUs / 1000),
      loadUs: 100_000 + upTo(50_000),
      promptEvalUs,
      evalUs,
    }
  }
}

/** Makes the database at `path` with users, keys, models, prices and `past.rows` closed requests. */
export const fillPast = async (path: string, past: Past, onRows: (rows: number) => void): Promise<void> => {
  const { db, sqlite, commit, close } = openDatabase({ path, synchronous: 'normal', nowMs: past.fromMs })
  sqlite.run('pragma synchronous = off')
  sqlite.run('pragma cache_size = -400000')
  const store = createStore(db)
  for (let model = 1; model <= past.models; model++) {
    await store.modelId(modelName(model))
    if (model % 4 !== 0)
      await store.putPrice(
        modelName(model),
        { inputPrice: 150_000, outputPrice: 600_000 },
        'bench',
        past.fromMs,
      )
  }
  sqlite.run('begin')
  for (let user = 1; user <= past.users; user++) {
    const key = {
      hash: await sha256(userKey(user)),
      prefix: 'sk-bench',
      name: null,
      expiresAt: null,
      models: null,
    }
    await store.createUser(userId(user), unlimited, key, past.fromMs)
  }
  sqlite.run('commit')
  const toRow = createRow(past)
  const group: Batch = { open: [], grant: [], checkpoint: [], close: [], keyUse: [], learnt: [] }
  for (let index = 0; index < past.rows; ) {
    group.close = []
    for (; index < past.rows && group.close.length < GROUP_ROWS; index++) group.close.push(toRow(index))
    commit(group)
    onRows(index)
  }
  close()
}
