import { Database } from 'bun:sqlite'
import { afterAll, afterEach, describe, expect, test } from 'bun:test'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDatabase } from '../../src/runtime/database.ts'
import { StartError } from '../../src/runtime/start-error.ts'
import { usage } from '../../src/store/schema.ts'
import { batch, closing, idAt, opening, T0 } from '../store/support.ts'

const root = mkdtempSync(join(tmpdir(), 'database-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let folders = 0
const fresh = () => {
  folders += 1
  return join(root, String(folders), 'proxy.db')
}
const open = (path: string, more: { migrationsFolder?: string; nowMs?: number } = {}) =>
  openDatabase({ path, synchronous: 'normal', nowMs: T0, ...more })
const refusal = (path: string, more: { migrationsFolder?: string } = {}): string => {
  try {
    open(path, more).close()
  } catch (error) {
    if (error instanceof StartError) return error.message
    throw error
  }
  return ''
}
const migrations = join(import.meta.dir, '../../migrations')

describe('a database file', () => {
  test('is made with its folder, and read by nobody else', () => {
    const path = fresh()
    const { close, commit } = open(path)
    commit(batch({ open: [opening({ id: 1 })] }))
    for (const file of [path, `${path}-wal`, `${path}-shm`, `${path}-lock`])
      expect(statSync(file).mode & 0o777).toBe(0o600)
    close()
    // All is in the file itself then: it can be copied alone.
    expect(statSync(`${path}-wal`, { throwIfNoEntry: false })?.size ?? 0).toBe(0)
  })

  test('is opened with its pragmas', () => {
    const { sqlite, close } = openDatabase({ path: fresh(), synchronous: 'full', nowMs: T0 })
    const pragma = (name: string) => sqlite.query(`pragma ${name}`).values()[0]?.[0]
    expect(['busy_timeout', 'journal_mode', 'synchronous', 'foreign_keys'].map(pragma)).toEqual([
      5000,
      'wal',
      2,
      1,
    ])
    close()
  })

  test('opens again with what was written, and goes on with the ids', () => {
    const path = fresh()
    const first = open(path)
    first.commit(batch({ close: [closing({ id: idAt(T0, 5) })], open: [opening({ id: idAt(T0, 9) })] }))
    first.close()
    const again = open(path, { nowMs: T0 + 1000 })
    expect(again.recovered).toBe(1)
    expect(again.lastId).toBe(idAt(T0, 9))
    expect(again.db.select().from(usage).all()).toHaveLength(2)
    again.close()
  })

  test('takes at most 120 bytes a row, indexes included, roll-ups apart', () => {
    const { sqlite, commit, close } = open(':memory:')
    const count = 100_000
    for (let i = 0; i < count; i += 1000) {
      const close = Array.from({ length: 1000 }, (_, j) =>
        closing({
          id: idAt(T0 + (i + j) * 3000),
          userNumber: ((i + j) * 7919) % 1000,
          keyId: ((i + j) * 7919) % 1500,
          modelId: (i + j) % 20,
          promptTokens: 200 + ((i + j) % 5000),
          completionTokens: 300 + ((i + j) % 700),
          price: { input: 150_000, output: 600_000 },
          durationMs: 8500 + ((i + j) % 60_000),
          loadUs: 123_456,
          promptEvalUs: 230_000 + i,
          evalUs: 8_000_000 + i,
        }),
      )
      commit(batch({ close }))
    }
    const bytes = sqlite
      .query("select sum(pgsize) from dbstat where name in ('usage', 'usage_user')")
      .values()
    expect(Number(bytes[0]?.[0]) / count).toBeLessThanOrEqual(120)
    close()
  })
})

describe('one process owns a database', () => {
  const children: Bun.Subprocess[] = []
  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL')
  })
  const start = (path: string) => {
    const child = Bun.spawn(['bun', join(import.meta.dir, 'writer-child.ts'), path], {
      stdout: 'pipe',
      stderr: 'inherit',
    })
    children.push(child)
    const reader = child.stdout.getReader()
    let text = ''
    const readUntil = async (lines: number) => {
      const decoder = new TextDecoder()
      while (text.split('\n').length <= lines) {
        const { value, done } = await reader.read()
        if (done) break
        text += decoder.decode(value, { stream: true })
      }
      return text
    }
    return { child, readUntil }
  }

  test('a second one is refused at once, also through a link, until the first is killed', async () => {
    const path = fresh()
    const { child, readUntil } = start(path)
    await readUntil(2)
    const link = join(path, '../link.db')
    symlinkSync(path, link)
    const began = performance.now()
    expect(refusal(path)).toContain('belongs to another running proxy')
    expect(refusal(link)).toContain('belongs to another running proxy')
    expect(performance.now() - began).toBeLessThan(1000)
    child.kill('SIGKILL')
    await child.exited
    expect(refusal(link)).toBe('')
  })

  test('nothing that was said to be durable is lost by kill -9, and the file is sound', async () => {
    const path = fresh()
    for (const lines of [50, 171, 333]) {
      rmSync(join(path, '..'), { recursive: true, force: true })
      const { child, readUntil } = start(path)
      await readUntil(lines)
      child.kill('SIGKILL')
      await child.exited
      const said = (await readUntil(Number.POSITIVE_INFINITY)).split('\n').slice(0, -1)
      const { db, sqlite, recovered, close } = open(path)
      expect(sqlite.query('pragma integrity_check').values()).toEqual([['ok']])
      expect(recovered).toBeLessThanOrEqual(1)
      const rows = new Map(
        db
          .select()
          .from(usage)
          .all()
          .map(row => [row.id, row.outcome]),
      )
      const last = said.filter(line => line.startsWith('closed')).length
      expect(last).toBeGreaterThan(0)
      for (const line of said) {
        const [word, id] = line.split(' ')
        // 0: completed. One that was only opened may have been closed before the kill, or is recovered.
        if (word === 'closed') expect(rows.get(Number(id))).toBe(0)
        else expect(rows.has(Number(id))).toBe(true)
      }
      const sums = sqlite.query('select sum(requests), sum(cost_pico) from usage_by_user').values()
      expect(sums).toEqual(sqlite.query('select count(*), sum(cost_pico) from usage').values())
      close()
    }
  })

  test('the same process may open it again once it has closed it, not before', () => {
    const path = fresh()
    const first = open(path)
    expect(refusal(path)).toContain('belongs to another running proxy')
    first.close()
    expect(refusal(path)).toBe('')
  })
})

describe('releases', () => {
  /** Our migrations and one more, as a later release would bring them. */
  const later = () => {
    const folder = join(root, 'later-migrations')
    cpSync(migrations, folder, { recursive: true })
    const journalPath = join(folder, 'meta/_journal.json')
    const journal = JSON.parse(readFileSync(journalPath, 'utf8'))
    const when = Math.max(...journal.entries.map((entry: { when: number }) => entry.when)) + 1000
    journal.entries.push({ idx: 99, version: '6', when, tag: '0099_later', breakpoints: true })
    writeFileSync(journalPath, JSON.stringify(journal))
    writeFileSync(join(folder, '0099_later.sql'), 'ALTER TABLE `usage` ADD `later` integer;')
    return folder
  }

  test('a database of an earlier one opens and keeps its rows; one of a newer one is left alone', () => {
    const path = fresh()
    const migrationsFolder = later()
    const earlier = open(path)
    earlier.commit(batch({ close: [closing({ id: idAt(T0) })] }))
    earlier.close()
    const upgraded = open(path, { migrationsFolder })
    expect(upgraded.sqlite.query('select id, later from usage').values()).toEqual([[idAt(T0), null]])
    upgraded.close()
    expect(refusal(path)).toContain('written by a newer release')
    expect(refusal(path, { migrationsFolder })).toBe('')
  })
})

describe('a start that cannot succeed says why in one sentence', () => {
  test('a folder', () => {
    const path = fresh()
    mkdirSync(path, { recursive: true })
    expect(refusal(path)).toContain('is a folder')
  })

  test('a file that is no database, which is left as it was', () => {
    const path = fresh()
    mkdirSync(join(path, '..'))
    writeFileSync(path, 'Dear diary, today I began to write.')
    expect(refusal(path)).toContain('is not a SQLite database')
    expect(readFileSync(path, 'utf8')).toStartWith('Dear diary')
    expect(existsSync(`${path}-lock`)).toBe(false)
  })

  test('a damaged database', () => {
    const path = fresh()
    open(path).close()
    const bytes = readFileSync(path)
    bytes.fill(0xff, 16, 4096)
    writeFileSync(path, bytes)
    expect(refusal(path)).toContain('is damaged')
  })

  test("another program's database", () => {
    const path = fresh()
    mkdirSync(join(path, '..'))
    const other = new Database(path)
    other.run('create table notes (text)')
    other.close()
    expect(refusal(path)).toContain("another program's database")
  })

  test('a path through a file', () => {
    expect(refusal(join(import.meta.path, 'proxy.db'))).toContain('a part of its path is a file')
  })

  test.if(process.platform === 'linux')('a place where nothing can be written', () => {
    expect(refusal('/proc/nowhere/proxy.db')).toContain('cannot be written')
  })

  test.if(process.getuid?.() !== 0)('a file that may not be written', () => {
    const path = fresh()
    open(path).close()
    chmodSync(path, 0o400)
    expect(refusal(path)).toContain('cannot be written')
  })
})
