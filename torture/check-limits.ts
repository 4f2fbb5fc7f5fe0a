/**
 * Limits across kills, from what happened outside: when the simulator received requests, and what clients read when.
 * In any 60 s no user got more than its limit; over the whole run no more than its total.
 *
 * Requests are held against their admission, as the rows have it, and once more against their arrival at the
 * simulator. Tokens count from when they were read; a prompt, and what no client read (end tokens, answers that were
 * cut off), at the row's end. The windows count each of these a moment earlier than a client or the simulator sees it,
 * so a window of 58 s as seen from outside lies within the 60 s of the rule. A prompt that Ollama counts higher than
 * was reserved may pass the limit by the rule; here none is allowed to.
 */
import type { LogEntry } from '../src/simulator/journal.ts'
import type { Account } from './accounts.ts'
import type { Seen } from './client.ts'
import type { Row } from './ledger.ts'
import type { Scorecard } from './scorecard.ts'

type Event = { atMs: number; amount: number }

const WINDOW_MS = 60_000
const SEEN_LATER_MS = 2000

/** The largest sum in any half-open window of this length. */
export const fullestWindow = (events: readonly Event[], windowMs: number): number => {
  const sorted = [...events].sort((a, b) => a.atMs - b.atMs)
  let first = 0
  let sum = 0
  let fullest = 0
  for (const { atMs, amount } of sorted) {
    sum += amount
    for (
      let oldest = sorted[first];
      oldest !== undefined && oldest.atMs <= atMs - windowMs;
      oldest = sorted[first]
    ) {
      sum -= oldest.amount
      first++
    }
    fullest = Math.max(fullest, sum)
  }
  return fullest
}

export type LimitEvidence = {
  accounts: readonly Account[]
  seen: readonly Seen[]
  rows: readonly Row[]
  log: readonly LogEntry[]
}

export const checkLimits = ({ accounts, seen, rows, log }: LimitEvidence, scorecard: Scorecard): void => {
  const rowOf = new Map(rows.map(row => [row.requestId, row]))
  const tagOf = (row: Row) => /\[\[tag:([^\]]+)\]\]/.exec(row.preview ?? '')?.[1]
  const rowByTag = new Map(rows.flatMap(row => [[tagOf(row), row] as const]))

  const tokenEvents = (own: readonly Seen[], ownRows: readonly Row[]): Event[] => {
    const read = new Map<Row, number>()
    const events: Event[] = []
    for (const one of own) {
      const row = rowOf.get(one.requestId ?? '') ?? rowByTag.get(one.attempt.tag)
      for (const { atMs, tokens } of one.reads) events.push({ atMs, amount: tokens })
      if (row !== undefined) read.set(row, one.tokens)
    }
    for (const row of ownRows)
      events.push({
        atMs: row.endedMs,
        amount: row.prompt + Math.max(0, row.completion - (read.get(row) ?? 0)),
      })
    return events
  }

  for (const { userId, limit } of accounts) {
    if (limit === undefined) continue
    const own = seen.filter(one => one.attempt.userId === userId)
    const ownRows = rows.filter(row => row.userId === userId)
    const note = (title: string, most: number) =>
      scorecard
        .check(title)
        .note(most <= limit.size ? undefined : `${userId}: ${most} under a limit of ${limit.size}`)
    if (limit.name === 'requests_per_minute') {
      const admitted = ownRows.map(row => ({ atMs: row.admittedMs, amount: 1 }))
      note('no 60 s hold more requests than the limit, by admission', fullestWindow(admitted, WINDOW_MS))
      const first = new Map<string, number>()
      for (const entry of log) {
        const tag = entry.requestTag
        if (tag !== null && !first.has(tag) && own.some(one => one.attempt.tag === tag))
          first.set(tag, entry.startedAt)
      }
      const arrived = [...first.values()].map(atMs => ({ atMs, amount: 1 }))
      note(
        'no 60 s hold more requests than the limit, by arrival at Ollama',
        fullestWindow(arrived, WINDOW_MS - SEEN_LATER_MS),
      )
    }
    if (limit.name === 'tokens_per_minute')
      note(
        'no 60 s hold more tokens than the limit',
        fullestWindow(tokenEvents(own, ownRows), WINDOW_MS - SEEN_LATER_MS),
      )
    if (limit.name === 'total_token_limit')
      note(
        'no more tokens are billed than the total limit',
        ownRows.reduce((sum, row) => sum + row.prompt + row.completion, 0),
      )
    const admitted = own.filter(one => one.status === 200).length
    const refused = own.filter(one => one.status === 429).length
    scorecard
      .check('limits were really met')
      .note(refused > 0 && admitted > 0 ? undefined : `${userId}: ${admitted} admitted, ${refused} refused`)
  }
}
