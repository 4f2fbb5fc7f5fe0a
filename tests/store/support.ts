/** A real database in memory, and rows to put into it. */

import type { Limits } from '../../src/limits/admission.ts'
import { openDatabase } from '../../src/runtime/database.ts'
import type { Batch, Closing, Opening } from '../../src/store/ledger.ts'
import { createStore, type NewKey } from '../../src/store/store.ts'

/** 2026-01-01T00:00:00Z, the beginning of an hour and of a day. */
export const T0 = Date.UTC(2026, 0, 1)
export const HOUR = 3_600_000
export const DAY = 24 * HOUR

export const openMemory = () => {
  const database = openDatabase({ path: ':memory:', synchronous: 'normal', nowMs: T0 })
  return { ...database, store: createStore(database.db) }
}

export const idAt = (ms: number, sequence = 0) => ms * 1024 + sequence

export const unlimited: Limits = {
  requestsPerMinute: null,
  requestsPerDay: null,
  tokensPerMinute: null,
  tokensPerDay: null,
  totalTokens: null,
}

export const newKey = (hash: string, more: Partial<NewKey> = {}): NewKey => ({
  hash,
  prefix: `sk-${hash}-…`,
  name: null,
  expiresAt: null,
  models: null,
  ...more,
})

export const batch = (part: Partial<Batch>): Batch => ({
  open: [],
  grant: [],
  checkpoint: [],
  close: [],
  keyUse: [],
  learnt: [],
  ...part,
})

export const opening = (row: Partial<Opening> & { id: number }): Opening => ({
  userNumber: 1,
  keyId: 1,
  modelId: 1,
  kind: 'chat',
  admittedAfterMs: 1,
  queueMs: 0,
  price: { input: 0, output: 0 },
  promptPromised: 20,
  completionPromised: 512,
  promptCounted: 18,
  preview: null,
  ...row,
})

export const closing = (row: Partial<Closing> & { id: number }): Closing => ({
  userNumber: 1,
  keyId: 1,
  modelId: 1,
  kind: 'chat',
  outcome: 'completed',
  basis: 'measured',
  promptTokens: 10,
  completionTokens: 5,
  price: { input: 0, output: 0 },
  admittedAfterMs: 1,
  queueMs: 0,
  firstTokenMs: 100,
  durationMs: 1000,
  loadUs: 0,
  promptEvalUs: 0,
  evalUs: 0,
  ...row,
})
