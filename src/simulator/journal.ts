/**
 * The simulated Ollama's own account of what it was asked and what it gave: the truth a proxy's ledger is held against.
 * The oldest entries go when `limit` is reached; `dropped` says how many went.
 */
import { sharedMicros } from './clock.ts'

/**
 * How an answer ended. `done`: its end was handed to the kernel. `hung up`: the client left before that.
 * `fault:<kind>`: the simulator broke it on purpose (`reset`, `truncate`, `garbage`, `end`, `error`, `stall`, `500`, …).
 */
export type Ended = 'done' | 'hung up' | `fault:${string}`

export type LogEntry = {
  /** 1, 2, 3, … over all generating and embedding requests. */
  seq: number
  path: string
  model: string
  stream: boolean
  /** From `[[tag:abc123]]` anywhere in the prompt. */
  requestTag: string | null
  /** What the prompt costs, known from the start, also when the client never reads it. */
  promptTokens: number
  /** Tokens the model has produced, end token included: at least what was delivered. */
  generated: number
  /** Tokens whose line the kernel took, known once the answer is over; 0 for a plain answer that was cut off. */
  delivered: number
  /** The `eval_count` of the answer's `done` line; null when none was sent. */
  completionTokens: number | null
  ended: Ended | null
  /** The client left before the answer's end; beside `fault:stall` too. */
  hungUp: boolean
  startedAt: number
  endedAt: number | null
}

export type Stats = {
  accepts: number
  /** All requests, the catalogue's included. */
  requests: number
  /** Clients that left before the end of a generated answer. */
  aborts: number
  /** Open connections. */
  open: number
  tokens: number
  last_abort_us: number
  last_abort_tok: number
  now_us: number
  /** Generated answers by how they ended. */
  ended: Record<string, number>
  running: number
  dropped: number
}

export const createJournal = (limit: number) => {
  let entries: LogEntry[] = []
  let seq = 0
  let dropped = 0
  const ended: Record<string, number> = {}
  const totals = { requests: 0, aborts: 0, tokens: 0, lastAbortUs: 0, lastAbortTokens: 0, running: 0 }

  return {
    totals,
    open(
      fields: Pick<LogEntry, 'path' | 'model' | 'stream' | 'requestTag' | 'promptTokens' | 'startedAt'>,
    ): LogEntry {
      const entry: LogEntry = {
        seq: ++seq,
        ...fields,
        generated: 0,
        delivered: 0,
        completionTokens: null,
        ended: null,
        hungUp: false,
        endedAt: null,
      }
      totals.running++
      // Cutting half at a time keeps appending cheap without a ring.
      if (limit > 0 && entries.length >= limit) {
        const keep = Math.floor(limit / 2)
        dropped += entries.length - keep
        entries = keep === 0 ? [] : entries.slice(-keep)
      }
      if (limit > 0) entries.push(entry)
      else dropped++
      return entry
    },
    close(entry: LogEntry, how: Ended, hungUp: boolean, atMs: number, nowUs: number) {
      if (entry.ended !== null) return
      entry.ended = how
      entry.hungUp = hungUp
      entry.endedAt = atMs
      ended[how] = (ended[how] ?? 0) + 1
      totals.running--
      totals.tokens += entry.delivered
      if (!hungUp) return
      totals.aborts++
      totals.lastAbortUs = nowUs
      totals.lastAbortTokens = entry.delivered
    },
    /** Entries after `seq`, oldest first. */
    after: (after: number, max = Number.POSITIVE_INFINITY) => {
      const first = entries[0]?.seq ?? 1
      const start = Math.max(0, after + 1 - first)
      return entries.slice(start, start + max)
    },
    ended,
    dropped: () => dropped,
  }
}

export type Journal = ReturnType<typeof createJournal>

/** What `/__stats` says: the journal's sums beside the server's connections. */
export const toStats = (journal: Journal, server: { accepted: () => number; open: () => number }): Stats => ({
  accepts: server.accepted(),
  requests: journal.totals.requests,
  aborts: journal.totals.aborts,
  open: server.open(),
  tokens: journal.totals.tokens,
  last_abort_us: journal.totals.lastAbortUs,
  last_abort_tok: journal.totals.lastAbortTokens,
  now_us: sharedMicros(),
  ended: { ...journal.ended },
  running: journal.totals.running,
  dropped: journal.dropped(),
})
