/** What a start owes to a crash: the requests it cut off are closed, and nothing that was used comes back. */
import { desc, inArray, isNotNull, lt, lte, sql } from 'drizzle-orm'
import { firstIdAt, startedMs } from '../ids.ts'
import { createCloser } from './commit.ts'
import { atomically, type SyncDatabase } from './database.ts'
import { type Closing, kinds } from './ledger.ts'
import { HOUR_MS } from './rollup.ts'
import {
  crashGrants,
  openRequests,
  promptPreviews,
  usage,
  usageArchive,
  usageByHour,
  userNumbers,
} from './schema.ts'

/** A day's window, and an hour for its cells. */
const GRANT_KEPT_MS = 25 * HOUR_MS

type OpenRow = typeof openRequests.$inferSelect

/** As far as the last checkpoint says, or its admission if there was none; at the price of the request's start. */
const toRecovered = (row: OpenRow): Closing => ({
  id: row.id,
  userNumber: row.userNumber,
  keyId: row.keyId,
  modelId: row.modelId,
  kind: kinds[row.kind] ?? 'chat',
  outcome: 'recovered',
  basis: 'recovered',
  promptTokens: row.promptCounted,
  completionTokens: row.completionCounted,
  price: { input: row.inputPrice, output: row.outputPrice },
  admittedAfterMs: row.admittedAfterMs,
  queueMs: row.queueMs,
  firstTokenMs: null,
  durationMs: Math.max(row.admittedAfterMs, row.checkpointMs),
  loadUs: 0,
  promptEvalUs: 0,
  evalUs: 0,
})

/**
 * Closes every request that was open when the process died, as `recovered`, and keeps what had been promised beyond
 * its bill for the windows. Also erases what a deletion cut short left behind. Returns how many were closed.
 */
export const recover = (db: SyncDatabase, nowMs: number): number => {
  const close = createCloser(db)
  return atomically(db, () => {
    const lost = db.select().from(openRequests).orderBy(openRequests.id).all()
    close(lost.map(toRecovered))
    for (const row of lost) {
      // What reached the client after the last checkpoint is unknown, so the whole grant counts as just delivered.
      const promised = row.promptPromised + row.completionPromised
      const tokens = Math.max(promised, row.promptCounted + row.completionCounted)
      db.insert(crashGrants)
        .values({ id: row.id, userNumber: row.userNumber, atMs: nowMs, tokens })
        .onConflictDoNothing()
        .run()
    }
    db.delete(crashGrants)
      .where(lt(crashGrants.atMs, nowMs - GRANT_KEPT_MS))
      .run()
    const gone = db
      .select({ number: userNumbers.number })
      .from(userNumbers)
      .where(isNotNull(userNumbers.deletedAt))
    db.delete(promptPreviews).where(inArray(promptPreviews.userNumber, gone)).run()
    return lost.length
  })
}

/** One closed request as the windows count it after a restart: a request at its admission, its tokens at its end. */
export type PastRequest = { user: number; admittedMs: number; endedMs: number; tokens: number }

/**
 * All that can still be inside a window that began at `sinceMs`: requests that ended after it, and the grants of
 * requests that a crash cut off. Of those the row counts the request and the grant counts the tokens (`admittedMs` is
 * -Infinity).
 */
export const recent = function* (db: SyncDatabase, sinceMs: number): Iterable<PastRequest> {
  // The hours' last ends tell how far back to read: a long stream of yesterday moves the bound, not for ever.
  const [oldest] = db
    .select({ hour: sql<number | null>`min(${usageByHour.hour})` })
    .from(usageByHour)
    .where(sql`${usageByHour.lastEndMs} > ${sinceMs}`)
    .all()
  const hour = oldest?.hour ?? null
  const grants = db.select().from(crashGrants).all()
  const cutOff = new Set(grants.map(grant => grant.id))
  if (hour !== null)
    for (const [id, user, admittedAfterMs, durationMs, tokens] of recentRows(db, hour, sinceMs)) {
      const started = startedMs(id)
      yield {
        user,
        admittedMs: started + admittedAfterMs,
        endedMs: started + durationMs,
        tokens: cutOff.has(id) ? 0 : tokens,
      }
    }
  for (const { userNumber, atMs, tokens } of grants)
    yield { user: userNumber, admittedMs: -Infinity, endedMs: atMs, tokens }
}

/** Rows at a time: few enough that the pages stay small, many enough that a page costs nothing. */
const PAGE_ROWS = 10_000

type RecentRow = [id: number, user: number, admittedAfterMs: number, durationMs: number, tokens: number]

const recentRows = function* (db: SyncDatabase, hour: number, sinceMs: number): Iterable<RecentRow> {
  const page = db
    .select({
      id: usage.id,
      userNumber: usage.userNumber,
      admittedAfterMs: usage.admittedAfterMs,
      durationMs: usage.durationMs,
      tokens: sql<number>`${usage.promptTokens} + ${usage.completionTokens}`,
    })
    .from(usage)
    .where(
      sql`${usage.id} >= ${sql.placeholder('from')} and (${usage.id} >> 10) + ${usage.durationMs} > ${sinceMs}`,
    )
    .orderBy(usage.id)
    .limit(PAGE_ROWS)
    .prepare()
  let from = firstIdAt(hour * HOUR_MS)
  for (;;) {
    const rows = page.values({ from }) as RecentRow[]
    yield* rows
    const last = rows.at(-1)
    if (last === undefined || rows.length < PAGE_ROWS) return
    from = last[0] + 1
  }
}

/**
 * The largest number that a request has had up to `latestMs`; the next one must be larger, also when the clock steps
 * back. What lies further ahead is from a clock that was wrong once: going on from there would date every later row
 * in that future.
 */
export const lastId = (db: SyncDatabase, latestMs = 8_000_000_000_000): number => {
  const bound = Math.floor(firstIdAt(latestMs))
  const closed = db
    .select({ id: usage.id })
    .from(usage)
    .where(lte(usage.id, bound))
    .orderBy(desc(usage.id))
    .limit(1)
    .all()
  const open = db
    .select({ id: openRequests.id })
    .from(openRequests)
    .where(lte(openRequests.id, bound))
    .orderBy(desc(openRequests.id))
    .limit(1)
    .all()
  const archived = db
    .select({ hour: usageArchive.hour })
    .from(usageArchive)
    .where(lte(usageArchive.hour, Math.floor(latestMs / HOUR_MS)))
    .orderBy(desc(usageArchive.hour))
    .limit(1)
    .all()
  const pastArchive = archived.map(cell => firstIdAt((cell.hour + 1) * HOUR_MS))
  return Math.max(0, ...closed.map(row => row.id), ...open.map(row => row.id), ...pastArchive)
}
