/** The thread of reader.ts: one read-only connection, one question at a time, each in one snapshot. */
import { Database } from 'bun:sqlite'
import { parentPort, workerData } from 'node:worker_threads'
import { drizzle } from 'drizzle-orm/bun-sqlite'
import { ReportFault } from '../store/report-parts.ts'
import * as schema from '../store/schema.ts'
import { giveWay } from './give-way.ts'
import type { Answer, Question } from './reader.ts'
import { createTextReports } from './text-reports.ts'

giveWay(19)
const { path } = workerData as { path: string }
const sqlite = new Database(path, { readonly: true, strict: true })
sqlite.run('pragma busy_timeout = 5000')
const reports = createTextReports(drizzle(sqlite, { schema, casing: 'snake_case' }))

/** Several statements of one report must see the same rows: retention moves some from one table to another. */
const inOneSnapshot = async (read: () => Promise<unknown>): Promise<unknown> => {
  sqlite.run('begin')
  try {
    return await read()
  } finally {
    sqlite.run('commit')
  }
}

const answer = async ({ id, method, args }: Question): Promise<Answer> => {
  const read = reports[method] as (...args: unknown[]) => Promise<unknown>
  try {
    return { id, value: await inOneSnapshot(() => read(...args)) }
  } catch (error) {
    if (error instanceof ReportFault) return { id, fault: { param: error.param, message: error.message } }
    return { id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) }
  }
}

let last: Promise<void> = Promise.resolve()
parentPort?.on('message', (question: Question) => {
  last = last.then(async () => parentPort?.postMessage(await answer(question)))
})
