/** Reports over one connection, in whatever thread it lives; the heavy ones become text here. */
import { stringify } from 'csv-stringify/sync'
import { readBuckets } from '../store/buckets.ts'
import type { AnyDatabase } from '../store/database.ts'
import { type ExportRow, readExport, readHistory, readUserNumber } from '../store/history.ts'
import type { ExportFormat, Reports } from '../store/reports.ts'
import { readTotals, readUsage } from '../store/totals.ts'

const columns: (keyof ExportRow)[] = [
  'user_id',
  'id',
  'request_id',
  'model',
  'prompt_tokens',
  'completion_tokens',
  'total_tokens',
  'cost',
  'outcome',
  'basis',
  'started_at',
  'ended_at',
  'first_token_ms',
  'duration_ms',
  'api_key_id',
  'prompt_preview',
]

const toText = (rows: ExportRow[], format: ExportFormat, isFirst: boolean): string =>
  format === 'ndjson'
    ? rows.map(row => `${JSON.stringify(row)}\n`).join('')
    : // A prompt that begins with "=" must not become a formula in the reader's spreadsheet.
      stringify(rows, { columns, header: isFirst, escape_formulas: true })

export const createTextReports = (db: AnyDatabase): Reports => ({
  usage: (userNumber, bounds) => readUsage(db, userNumber, bounds),
  totals: userNumbers => readTotals(db, userNumbers),
  history: (userNumber, query) => readHistory(db, userNumber, query),
  async buckets(query) {
    return JSON.stringify(await readBuckets(db, query))
  },
  async exportPage(query, format, after) {
    const { rows, next } = await readExport(db, query, after)
    return { text: toText(rows, format, after === undefined), next }
  },
  userNumber: userId => readUserNumber(db, userId),
})
