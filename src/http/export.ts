/** An export of any size in the memory of one page: the next is read when the client has taken the last. */
import type { ExportQuery } from '../store/history.ts'
import type { ExportFormat, Reports } from '../store/reports.ts'
import { asked } from './query.ts'

/**
 * The rows as bytes. The first page is read before the answer begins, so a question that can't be answered is still
 * a 400; a fault further on breaks the connection off, as a file that only looks whole would be a wrong bill.
 */
export const toExportStream = async (
  reports: Reports,
  format: ExportFormat,
  range: ExportQuery,
): Promise<ReadableStream<Uint8Array>> => {
  const encoder = new TextEncoder()
  let { text, next } = await asked(reports.exportPage(range, format, undefined))
  let left = false
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        // A page may hold nothing of a rare model; an empty chunk would end the answer.
        while (text === '' && next !== undefined && !left) {
          const page = await reports.exportPage(range, format, next)
          text = page.text
          next = page.next
        }
        if (left) return
        if (text === '') {
          controller.close()
          return
        }
        controller.enqueue(encoder.encode(text))
        text = ''
      },
      cancel() {
        left = true
      },
    },
    // Nothing is read ahead of the client.
    { highWaterMark: 0 },
  )
}
