/** Refused and malformed requests make no ledger row; they are counted, and the log gets one line a minute. */
import type { ApiError } from './errors.ts'
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
    /** One answer that was an error, by its code. */
    count({ status, body }: Pick<ApiError, 'status' | 'body'>) {
      const code = `${status} ${body.error.code ?? body.error.type}`
      counts[code] = (counts[code] ?? 0) + 1
    },
  }
}
