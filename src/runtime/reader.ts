/**
 * Reports off the event loop: what takes under two milliseconds is read in process, all else in a Worker with a
 * connection of its own, so that no report stops the streams. The Worker sees the last commit. The admin's sums over
 * all users, which can take seconds, have a second one, so that no client waits behind them.
 */
import { Worker } from 'node:worker_threads'
import { ReportFault } from '../store/report-parts.ts'
import type { Reports } from '../store/reports.ts'
import type { OpenDatabase } from './database.ts'
import { createTextReports } from './text-reports.ts'

export type Method = keyof Reports
export type Question = { id: number; method: Method; args: unknown[] }
export type Answer = { id: number } & (
  | { value: unknown }
  | { fault: { param: string; message: string } }
  | { error: string }
)

type Waiter = { resolve: (value: unknown) => void; reject: (error: Error) => void }

/** Close it before the database. An in-memory database has one connection, so there everything is in process. */
export const createReports = (database: OpenDatabase): Reports & { close: () => Promise<void> } => {
  const here = createTextReports(database.db)
  if (database.path === ':memory:') return { ...here, close: async () => {} }
  const { ask, close } = createReader(database.path)
  const sums = createReader(database.path)
  return {
    usage: (userNumber, bounds) =>
      bounds.fromMs === undefined && bounds.toMs === undefined
        ? here.usage(userNumber, bounds)
        : ask('usage', userNumber, bounds),
    totals: here.totals,
    // A filter may look at thousands of rows.
    history: (userNumber, query) =>
      query.model === undefined && query.outcome === undefined
        ? here.history(userNumber, query)
        : ask('history', userNumber, query),
    buckets: query => sums.ask('buckets', query),
    exportPage: (query, format, after) => ask('exportPage', query, format, after),
    userNumber: here.userNumber,
    async close() {
      await Promise.all([close(), sums.close()])
    },
  }
}

type Ask = <M extends Method>(method: M, ...args: Parameters<Reports[M]>) => ReturnType<Reports[M]>

/** One Worker, started by its first question. */
const createReader = (path: string): { ask: Ask; close: () => Promise<void> } => {
  const waiting = new Map<number, Waiter>()
  let asked = 0
  let closed = false
  let worker: Worker | undefined

  const answered = (answer: Answer) => {
    const waiter = waiting.get(answer.id)
    waiting.delete(answer.id)
    if (waiting.size === 0) worker?.unref()
    if ('value' in answer) waiter?.resolve(answer.value)
    else if ('fault' in answer) waiter?.reject(new ReportFault(answer.fault.param, answer.fault.message))
    else waiter?.reject(new Error(answer.error))
  }

  /** Whoever still waits is told; the next question starts another Worker. */
  const ended = (reason: Error) => {
    worker = undefined
    for (const waiter of waiting.values()) waiter.reject(reason)
    waiting.clear()
  }

  const start = (): Worker => {
    const started = new Worker(new URL('./reader-worker.ts', import.meta.url), { workerData: { path } })
    started.on('message', answered)
    started.on('error', ended)
    started.on('exit', () => {
      if (worker === started) ended(new Error('the reports Worker ended'))
    })
    started.unref()
    return started
  }

  return {
    ask: ((method: Method, ...args: unknown[]) => {
      if (closed) return Promise.reject(new Error('the reports are closed'))
      worker ??= start()
      worker.ref()
      asked += 1
      const question: Question = { id: asked, method, args }
      worker.postMessage(question)
      return new Promise<unknown>((resolve, reject) => {
        waiting.set(question.id, { resolve, reject })
      })
    }) as Ask,
    async close() {
      closed = true
      const last = worker
      ended(new Error('the reports are closed'))
      await last?.terminate()
    },
  }
}
