/** Opens the one database of a process: its file, its lock, its migrations; and says plainly why where it cannot. */
import { Database } from 'bun:sqlite'
import { closeSync, mkdirSync, openSync, readSync, realpathSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { drizzle } from 'drizzle-orm/bun-sqlite'
import { type MigrationMeta, readMigrationFiles } from 'drizzle-orm/migrator'
import { createCommit } from '../store/commit.ts'
import type { SyncDatabase } from '../store/database.ts'
import type { Batch } from '../store/ledger.ts'
import { lastId, recover } from '../store/recovery.ts'
import * as schema from '../store/schema.ts'
import { StartError } from './start-error.ts'

export type DatabaseSettings = {
  /** A file, made with its folder where missing, or `:memory:`. */
  path: string
  /** `full` also survives a loss of power, at about three times the cost of a write. */
  synchronous: 'normal' | 'full'
  /** The start's instant: the grants of requests that a crash cut off count from it. */
  nowMs: number
  /** For tests of upgrades. */
  migrationsFolder?: string
}

export type OpenDatabase = {
  db: SyncDatabase
  sqlite: Database
  /** The file's real path, or `:memory:`. */
  path: string
  /** One group of ledger writes: committed when it returns, rolled back when it throws (see isStorageFull). */
  commit: (batch: Batch) => void
  /** How many requests a crash had cut off; they were closed as `recovered`. */
  recovered: number
  /** The largest number a request ever had: where createIds goes on. */
  lastId: number
  /** Writes the log back into the file and releases the lock. */
  close: () => void
}

const BUSY_TIMEOUT_MS = 5000
/** How far ahead of the clock a row may be and still count: a clock that was put back meanwhile. */
export const CLOCK_ERROR_MS = 2 * 3_600_000
/** A log that grew in a rush is cut back to this when it starts anew. */
const LOG_KEPT_BYTES = 64 * 1024 * 1024

export const openDatabase = (settings: DatabaseSettings): OpenDatabase => {
  const path = settings.path === ':memory:' ? settings.path : createFile(settings.path)
  const unlock = path === ':memory:' ? () => {} : lock(path)
  let sqlite: Database | undefined
  try {
    sqlite = new Database(path, { readwrite: true, create: true, strict: true })
    sqlite.run(`pragma busy_timeout = ${BUSY_TIMEOUT_MS}`)
    sqlite.run('pragma journal_mode = wal')
    sqlite.run(`pragma synchronous = ${settings.synchronous}`)
    sqlite.run('pragma foreign_keys = on')
    sqlite.run(`pragma journal_size_limit = ${LOG_KEPT_BYTES}`)
    const db = drizzle(sqlite, { schema, casing: 'snake_case' })
    const migrationsFolder = settings.migrationsFolder ?? resolve(import.meta.dir, '../../migrations')
    migrate(sqlite, path, readMigrationFiles({ migrationsFolder }))
    const recovered = recover(db, settings.nowMs)
    const opened = sqlite
    return {
      db,
      sqlite,
      path,
      commit: createCommit(db),
      recovered,
      lastId: lastId(db, settings.nowMs + CLOCK_ERROR_MS),
      close() {
        // Statements that are still alive keep a closed connection from doing this itself.
        opened.run('pragma wal_checkpoint(truncate)')
        opened.close()
        unlock()
      },
    }
  } catch (error) {
    sqlite?.close()
    unlock()
    throw toStartError(error, path)
  }
}

const SQLITE_HEADER = 'SQLite format 3\0'

/**
 * Makes folder and file where missing, the file readable by its owner only (SQLite gives its log the same mode), and
 * returns the real path. Another kind of file is refused before anything is put beside it.
 */
const createFile = (path: string): string => {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    const file = openSync(path, 'a+', 0o600)
    try {
      const start = new Uint8Array(SQLITE_HEADER.length)
      const length = readSync(file, start, 0, start.length, 0)
      if (length > 0 && new TextDecoder().decode(start) !== SQLITE_HEADER)
        throw new StartError(
          `The file ${path} is not a SQLite database: set DATABASE_PATH to another file, or move this one away.`,
        )
    } finally {
      closeSync(file)
    }
    return realpathSync(path)
  } catch (error) {
    throw toStartError(error, path)
  }
}

/**
 * One process owns a database. The lock is a held transaction on a second, empty SQLite file: the operating system
 * drops it with its owner, however that dies, and SQLite takes it in the same way on every platform. It stands
 * beside the real file, so that two links to one database are one database.
 */
const lock = (path: string): (() => void) => {
  const lockPath = `${path}-lock`
  createFile(lockPath)
  const holder = new Database(lockPath, { readwrite: true, create: true })
  try {
    holder.run('pragma busy_timeout = 0')
    holder.run('pragma locking_mode = exclusive')
    holder.run('begin exclusive')
  } catch (error) {
    holder.close()
    if (codeOf(error).startsWith('SQLITE_BUSY'))
      throw new StartError(
        `The database ${path} belongs to another running proxy: stop that one, or set DATABASE_PATH to another file.`,
      )
    throw toStartError(error, lockPath)
  }
  return () => holder.close()
}

/**
 * Brings the tables up to this release, all or nothing, in Drizzle's own book-keeping. Its migrator is not used, as on
 * a full disk it rolls back what SQLite has rolled back already, and that error hides the cause. A file that holds
 * another program's tables, or those of a release that this one does not know, is left alone.
 */
const migrate = (sqlite: Database, path: string, migrations: MigrationMeta[]): void => {
  const applied = appliedMigrations(sqlite, path)
  const known = new Set(migrations.map(migration => migration.folderMillis))
  if (applied.some(at => !known.has(at)))
    throw new StartError(
      `The database ${path} was written by a newer release of this program: start that release, or set DATABASE_PATH to another file.`,
    )
  const missing = migrations.filter(migration => !applied.includes(migration.folderMillis))
  if (missing.length === 0) return
  const apply = sqlite.transaction(() => {
    sqlite.run(
      'create table if not exists __drizzle_migrations (id integer primary key, hash text not null, created_at numeric)',
    )
    for (const { sql, hash, folderMillis } of missing) {
      for (const statement of sql) sqlite.run(statement)
      sqlite.run('insert into __drizzle_migrations (hash, created_at) values (?, ?)', [hash, folderMillis])
    }
  })
  apply.immediate()
}

/** The instants of the migrations that the file has, by which Drizzle knows them. */
const appliedMigrations = (sqlite: Database, path: string): number[] => {
  const tables = sqlite
    .query<{ name: string }, []>("select name from sqlite_master where type = 'table'")
    .all()
  if (tables.length === 0) return []
  if (!tables.some(table => table.name === '__drizzle_migrations'))
    throw new StartError(
      `The file ${path} holds another program's database: set DATABASE_PATH to a file of its own.`,
    )
  const rows = sqlite.query<{ at: number }, []>('select created_at as at from __drizzle_migrations').all()
  return rows.map(row => Number(row.at))
}

const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''

const sentences: [codes: RegExp, sentence: (path: string) => string][] = [
  [
    /^(EISDIR|SQLITE_CANTOPEN_ISDIR)$/,
    path => `The database path ${path} is a folder: set DATABASE_PATH to a file in it.`,
  ],
  [
    /^(ENOTDIR|EEXIST)$/,
    path =>
      `The database ${path} cannot be made, as a part of its path is a file: set DATABASE_PATH to another place.`,
  ],
  [
    /^(SQLITE_FULL|ENOSPC|EDQUOT|SQLITE_IOERR_SHMSIZE)$/,
    path => `The disk of the database ${path} is full: make room, then start again.`,
  ],
  [
    /^SQLITE_(CORRUPT|NOTADB)/,
    path =>
      `The database ${path} is damaged: put back a backup, or rescue its rows with "sqlite3 ${path} .recover".`,
  ],
  [
    /^SQLITE_(BUSY|LOCKED)/,
    path =>
      `The database ${path} is held by another program (a backup, a SQLite shell): end that one, then start again.`,
  ],
  [
    /^(E[A-Z]+|SQLITE_(CANTOPEN|READONLY|PERM|AUTH|IOERR).*)$/,
    path =>
      `The database ${path} cannot be written: allow this user to write the file and its folder, or set DATABASE_PATH to another place.`,
  ],
]

/** The plain sentence for what the system or SQLite reported; anything else is a fault of ours and stays as it is. */
const toStartError = (error: unknown, path: string): unknown => {
  if (error instanceof StartError) return error
  // Drizzle wraps what SQLite says.
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    const code = codeOf(cause)
    const known = sentences.find(([codes]) => codes.test(code))
    if (known !== undefined) return new StartError(known[1](path), { cause: error })
  }
  return error
}
