/** Refused and malformed requests make no ledger row; they are counted, and the log gets one line a minute. */
import type { Log } from './log.ts'
import type { Ticker } from './ticker.ts'

const REPORT_MS = 60_000

export const createTally = ({ ticker, steady, log }: { ticker: Ticker; steady: () => number; log: Log }) => {
  let counts: Record<string, number> = {}
  let reportedAt = steady()

  ticker.add(() => {
    if (steady() - reportedAt < REPORT_MS) return
    reportedAt = steady()
    if (Object.keys(counts).length === 0) return
    log.info({ refused: counts }, 'requests refused in the last minute')
    counts = {}
  })

  return {
    /** One answer that was an error, by its code; by its type where it has none. */
    count(status: number, code: string) {
      const name = `${status} ${code}`
      counts[name] = (counts[name] ?? 0) + 1
    },
  }
}
