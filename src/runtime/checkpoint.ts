/**
 * The write-ahead log is written back into the file by a Worker, as SQLite's own way stops the streams: it does so in
 * the very commit that crosses a thousand pages, with its fsyncs, on the event loop.
 *
 * The log begins anew only with a commit that finds all of it written back, which under load never happens by chance.
 * So when it has grown long, the writer holds its next group back while the Worker writes the last few pages: answers
 * wait some milliseconds, about twice a second under the heaviest load, tokens never.
 */
import { Worker } from 'node:worker_threads'
import type { OpenDatabase } from './database.ts'

/** What the Worker says after each checkpoint: how many pages the log holds. */
export type LogReport = { asked: boolean } & ({ pages: number } | { fault: string })

export type Checkpoints = {
  /** After this turn of the event loop; while the log is about to begin anew, when that is done. */
  soon: (task: () => void) => void
  /** Before the database is closed. */
  close: () => Promise<void>
}

/** 16 MB of log. */
const PAGES_MAX = 4000
/** A Worker that hangs must not keep the ledger waiting. */
const HELD_MS_MAX = 1000
/** SQLite's own default, for the time without a Worker. */
const AUTOMATIC_PAGES = 1000

type CheckpointWorker = Pick<Worker, 'on' | 'postMessage' | 'terminate' | 'unref'>

const start = (path: string): CheckpointWorker =>
  new Worker(new URL('./checkpoint-worker.ts', import.meta.url), { workerData: { path } })

/** Where there is no Worker, or it dies, SQLite writes the log back as it always does. `startWorker` is for tests. */
export const startCheckpoints = (
  database: Pick<OpenDatabase, 'path' | 'sqlite'>,
  startWorker = start,
): Checkpoints => {
  // An in-memory database has no log.
  if (database.path === ':memory:') return { soon: setImmediate, close: async () => {} }

  /** Tasks that wait for the log to begin anew; undefined while none has to. */
  let held: (() => void)[] | undefined
  let heldTimer: ReturnType<typeof setTimeout> | undefined
  let pagesBefore = 0
  let state: 'starting' | 'running' | 'over' = 'starting'

  const setAutomatic = (pages: number) => {
    database.sqlite.run(`pragma wal_autocheckpoint = ${pages}`)
  }

  const release = () => {
    clearTimeout(heldTimer)
    const tasks = held ?? []
    held = undefined
    for (const task of tasks) task()
  }

  const worker = startWorker(database.path)
  worker.unref()
  worker.on('message', (report: LogReport) => {
    // Its last words may come after its end.
    if (state === 'over') return
    if (state === 'starting') setAutomatic(0)
    state = 'running'
    if (report.asked) release()
    if ('fault' in report) return
    // Nothing new since the last report: the next commit begins anew by itself.
    const grew = report.pages !== pagesBefore
    pagesBefore = report.pages
    if (report.pages < PAGES_MAX || !grew || report.asked || held !== undefined) return
    held = []
    heldTimer = setTimeout(release, HELD_MS_MAX)
    worker.postMessage('now')
  })
  const ended = () => {
    if (state === 'running') setAutomatic(AUTOMATIC_PAGES)
    state = 'over'
    release()
  }
  worker.on('error', ended)
  worker.on('exit', ended)

  return {
    soon: task => void setImmediate(() => (held === undefined ? task() : held.push(task))),
    async close() {
      await worker.terminate()
      ended()
    },
  }
}
