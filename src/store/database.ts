/** The database as the store sees it: any SQLite that Drizzle speaks; doors open one and hand it in. */
import { getTableColumns, sql } from 'drizzle-orm'
import type { BaseSQLiteDatabase, SQLiteInsertValue, SQLiteTable } from 'drizzle-orm/sqlite-core'
import type * as schema from './schema.ts'

/** Synchronous (bun:sqlite, node:sqlite): the writing side, as its transactions must not span an `await`. */
export type SyncDatabase = BaseSQLiteDatabase<'sync', unknown, typeof schema>

/** Either kind: the reading side, which awaits every builder. */
export type AnyDatabase = BaseSQLiteDatabase<'sync' | 'async', unknown, typeof schema>

/**
 * One transaction that takes the write lock at once: a deferred one that reads first and then writes can fail with
 * BUSY whatever the timeout. `act` must be synchronous, as an async one would commit at its first `await`.
 */
export const atomically = <T>(db: SyncDatabase, act: () => T): T =>
  db.transaction(() => act(), { behavior: 'immediate' })

/** A placeholder for each column, under its own name: the values of a prepared insert. */
export const placeholders = <T extends SQLiteTable>(table: T): SQLiteInsertValue<T> => {
  const names = Object.keys(getTableColumns(table))
  return Object.fromEntries(names.map(name => [name, sql.placeholder(name)])) as SQLiteInsertValue<T>
}
