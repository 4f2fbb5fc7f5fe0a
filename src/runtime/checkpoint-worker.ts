/** The thread of checkpoint.ts: writes the log back into the file, every so often and when asked. */
import { Database } from 'bun:sqlite'
import { parentPort, workerData } from 'node:worker_threads'
import type { LogReport } from './checkpoint.ts'

/** Often enough that little is left to write when the writer waits for it. */
const EVERY_MS = 250

const { path } = workerData as { path: string }
const sqlite = new Database(path, { readwrite: true, strict: true })
// Passive: it waits for nobody, and nobody waits for it.
const checkpoint = sqlite.query<{ log: number }, []>('pragma wal_checkpoint(passive)')

const report = (asked: boolean) => {
  let result: LogReport
  try {
    result = { asked, pages: checkpoint.get()?.log ?? 0 }
  } catch (error) {
    // A full disk: SQLite's own checkpoints keep silent about it too. The next one may succeed.
    result = { asked, fault: error instanceof Error ? error.message : String(error) }
  }
  parentPort?.postMessage(result)
}

parentPort?.on('message', () => report(true))
setInterval(() => report(false), EVERY_MS)
report(false)
