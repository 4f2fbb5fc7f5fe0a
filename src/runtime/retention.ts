/** Rows past USAGE_RETENTION_DAYS become hourly sums, in steps short enough that no request notices. */
import type { Log } from '../log.ts'
import { retire } from '../store/retention.ts'
import type { Ticker } from '../ticker.ts'
import type { OpenDatabase } from './database.ts'

const DAY_MS = 86_400_000
const LOOK_EVERY_MS = 600_000
/** About a millisecond's work. */
const ROWS_A_STEP = 100

export const startRetention = (deps: {
  database: OpenDatabase
  days: number | null
  now: () => number
  ticker: Ticker
  log: Log
}): (() => void) => {
  const { days } = deps
  if (days === null) return () => {}
  let lookedAt = Number.NEGATIVE_INFINITY
  return deps.ticker.add(() => {
    const nowMs = deps.now()
    if (nowMs - lookedAt < LOOK_EVERY_MS) return
    try {
      // A full step means that there may be more: the next tick goes on.
      if (retire(deps.database.db, nowMs - days * DAY_MS, ROWS_A_STEP) < ROWS_A_STEP) lookedAt = nowMs
    } catch (cause) {
      lookedAt = nowMs
      deps.log.error({ cause }, 'old usage rows could not be rolled up')
    }
  })
}
