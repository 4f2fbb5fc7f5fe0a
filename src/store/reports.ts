/**
 * The reading side: what the usage endpoints ask. Exact sums at every commit, never of a moment between two.
 *
 * Every method throws a ReportFault for a question that cannot be answered (a 400 that names its parameter).
 */
import type { BucketQuery } from './buckets.ts'
import type { ExportQuery, HistoryPage, HistoryQuery } from './history.ts'
import type { TimeRange, Totals } from './report-parts.ts'
import type { Usage } from './totals.ts'

export type ExportFormat = 'csv' | 'ndjson'

export interface Reports {
  /** One user's usage: of all time, or in a half-open range; either bound may be left out. */
  usage(userNumber: number, bounds: Partial<TimeRange>): Promise<Usage>
  /** Lifetime totals of some users, by number; zeros for those who used nothing. */
  totals(userNumbers: readonly number[]): Promise<Map<number, Totals>>
  /** A page of a user's closed requests, newest first. */
  history(userNumber: number, query: HistoryQuery): Promise<HistoryPage>
  /** A page of `GET /admin/usage`, as JSON text: making it can take as long as the query. */
  buckets(query: BucketQuery): Promise<string>
  /**
   * A page of an export as text, oldest first; CSV begins with its header on the first. Ask with `next` for the page
   * after it, until it is undefined.
   */
  exportPage(
    query: ExportQuery,
    format: ExportFormat,
    after: number | undefined,
  ): Promise<{ text: string; next: number | undefined }>
  /** The number behind a user id as reports show it, `deleted-<number>` included. */
  userNumber(userId: string): Promise<number | undefined>
}
