import { afterAll, describe, expect, test } from 'bun:test'
import { EventEmitter } from 'node:events'
import { closeSync, mkdtempSync, openSync, readSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type LogReport, startCheckpoints } from '../../src/runtime/checkpoint.ts'
import { openDatabase } from '../../src/runtime/database.ts'
import { createLedger } from '../../src/store/ledger.ts'
import { closing, idAt, opening, T0 } from '../store/support.ts'

const root = mkdtempSync(join(tmpdir(), 'checkpoint-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let files = 0
const openFile = () => {
  files += 1
  return openDatabase({ path: join(root, `${files}.db`), synchronous: 'normal', nowMs: T0 })
}

/** A Worker whose reports the test writes. */
const createPuppet = () => {
  const events = new EventEmitter()
  const told: unknown[] = []
  const worker = {
    on: events.on.bind(events),
    postMessage: (message: unknown) => void told.push(message),
    terminate: async () => 0,
    unref: () => {},
  }
  return {
    start: () => worker as never,
    told,
    say: (report: LogReport) => void events.emit('message', report),
    die: (event: 'error' | 'exit') => void events.emit(event, new Error('gone')),
  }
}

const turn = () => new Promise<void>(resolve => setImmediate(() => setImmediate(resolve)))

const setUp = () => {
  const database = openFile()
  const puppet = createPuppet()
  const checkpoints = startCheckpoints(database, puppet.start)
  const groups: number[][] = []
  const ledger = createLedger({
    commit: group => {
      groups.push(group.open.map(row => row.id))
      database.commit(group)
    },
    soon: checkpoints.soon,
    later: () => {},
    onFault: () => {},
  })
  const automaticPages = () => database.sqlite.query('pragma wal_autocheckpoint').values()[0]?.[0]
  return { ...puppet, database, checkpoints, groups, ledger, automaticPages }
}

describe('while the log is long', () => {
  test('rows collect, and one group takes them all when it has been written back, waiters in their order', async () => {
    const { ledger, groups, say, told, database } = setUp()
    say({ asked: false, pages: 4000 })
    expect(told).toEqual(['now'])
    const order: number[] = []
    const waits = [3, 1, 2].map(id => ledger.open(opening({ id })).then(() => order.push(id)))
    await turn()
    const late = ledger.open(opening({ id: 4 })).then(() => order.push(4))
    await turn()
    expect(groups).toEqual([])
    // A report that was under way already is not the one that was asked for.
    say({ asked: false, pages: 4010 })
    await turn()
    expect(groups).toEqual([])
    say({ asked: true, pages: 4010 })
    await Promise.all([...waits, late])
    expect(groups).toEqual([[3, 1, 2, 4]])
    expect(order).toEqual([3, 1, 2, 4])
    database.close()
  })

  test('a group that was due in the same moment waits too', async () => {
    const { ledger, groups, say, database } = setUp()
    const opened = ledger.open(opening({ id: 1 }))
    say({ asked: false, pages: 5000 })
    await turn()
    expect(groups).toEqual([])
    say({ asked: true, pages: 5000 })
    await opened
    expect(groups).toEqual([[1]])
    database.close()
  })

  test('a shutdown in the midst of it commits what was handed in', async () => {
    const { ledger, groups, say, checkpoints, database } = setUp()
    say({ asked: false, pages: 5000 })
    const opened = ledger.open(opening({ id: 1 }))
    await turn()
    const drained = ledger.drain()
    await checkpoints.close()
    await Promise.all([opened, drained])
    expect(groups).toEqual([[1]])
    database.close()
  })

  test('a checkpoint that fails lets the writer go on', async () => {
    const { ledger, groups, say, database } = setUp()
    say({ asked: false, pages: 5000 })
    const opened = ledger.open(opening({ id: 1 }))
    await turn()
    say({ asked: true, fault: 'database or disk is full' })
    await opened
    expect(groups).toEqual([[1]])
    database.close()
  })

  test('nothing waits for it when nothing was written since the last look', async () => {
    const { ledger, groups, say, told, database } = setUp()
    say({ asked: false, pages: 5000 })
    say({ asked: true, pages: 5000 })
    say({ asked: false, pages: 5000 })
    expect(told).toEqual(['now'])
    await ledger.open(opening({ id: 1 }))
    expect(groups).toEqual([[1]])
    database.close()
  })
})

describe('SQLite writes the log back by itself', () => {
  test('until the Worker has said its first word', () => {
    const { automaticPages, say, database } = setUp()
    expect(automaticPages()).toBe(1000)
    say({ asked: false, pages: 0 })
    expect(automaticPages()).toBe(0)
    database.close()
  })

  test.each(['error', 'exit'] as const)(
    'again when the Worker is gone (%s), and who waited goes on',
    async event => {
      const { automaticPages, ledger, groups, say, die, database } = setUp()
      say({ asked: false, pages: 5000 })
      const opened = ledger.open(opening({ id: 1 }))
      await turn()
      expect(groups).toEqual([])
      die(event)
      await opened
      expect(groups).toEqual([[1]])
      expect(automaticPages()).toBe(1000)
      await ledger.open(opening({ id: 2 }))
      database.close()
    },
  )

  test('for an in-memory database there is no log and no Worker', async () => {
    const database = openDatabase({ path: ':memory:', synchronous: 'normal', nowMs: T0 })
    const checkpoints = startCheckpoints(database, () => {
      throw new Error('a Worker was started')
    })
    await new Promise<void>(resolve => checkpoints.soon(resolve))
    await checkpoints.close()
    database.close()
  })
})

/** How often this log has begun anew: the checkpoint sequence number in its header. */
const begunAnew = (log: string): number => {
  const file = openSync(log, 'r')
  try {
    const header = new Uint8Array(16)
    return readSync(file, header) < 16 ? 0 : new DataView(header.buffer).getUint32(12)
  } finally {
    closeSync(file)
  }
}

test('with the Worker itself the log of a writer that never rests begins anew, and no row is lost', async () => {
  const database = openFile()
  const checkpoints = startCheckpoints(database)
  const { commit } = database
  const ledger = createLedger({ commit, soon: checkpoints.soon, later: () => {}, onFault: () => {} })
  const automaticPages = database.sqlite.query('pragma wal_autocheckpoint')
  while (automaticPages.values()[0]?.[0] !== 0) await turn()
  const log = `${database.path}-wal`
  const before = begunAnew(log)
  let rows = 0
  const write = () =>
    Array.from({ length: 200 }, () => {
      rows += 1
      return ledger.close(closing({ id: idAt(T0 + rows), userNumber: (rows * 7919) % 1000 }))
    })
  // The next group is handed in before the last is committed: there is no moment without something to write.
  let last = write()
  while (begunAnew(log) < before + 2 && rows < 400_000) {
    const next = write()
    await Promise.all(last)
    last = next
  }
  await Promise.all(last)
  expect(begunAnew(log)).toBeGreaterThanOrEqual(before + 2)
  await checkpoints.close()
  expect(database.sqlite.query('select count(*) from usage').values()).toEqual([[rows]])
  expect(database.sqlite.query('pragma integrity_check').values()).toEqual([['ok']])
  database.close()
  expect(statSync(log, { throwIfNoEntry: false })?.size ?? 0).toBe(0)
})

test('a kill -9 among the checkpoints loses nothing that was said to be durable', async () => {
  files += 1
  const path = join(root, `${files}.db`)
  // Killed before the log was ever written back, and after it has begun anew.
  for (const times of [0, 2]) {
    for (const end of ['', '-wal', '-shm']) rmSync(`${path}${end}`, { force: true })
    const child = Bun.spawn(['bun', join(import.meta.dir, 'checkpoint-child.ts'), path], {
      stdout: 'pipe',
      stderr: 'inherit',
    })
    let said = ''
    const decoder = new TextDecoder()
    for await (const bytes of child.stdout) {
      said += decoder.decode(bytes, { stream: true })
      if (child.killed) continue
      const begun = begunAnew(`${path}-wal`)
      if (begun >= times) child.kill('SIGKILL')
    }
    const durable = Number(said.split('\n').at(-2))
    const database = openDatabase({ path, synchronous: 'normal', nowMs: T0 })
    const sums = database.sqlite.query('select count(*), sum(prompt_tokens) from usage').values()
    expect(Number(sums[0]?.[0])).toBeGreaterThanOrEqual(durable)
    expect(durable).toBeGreaterThan(0)
    expect(database.sqlite.query('pragma integrity_check').values()).toEqual([['ok']])
    expect(
      database.sqlite.query('select sum(requests), sum(prompt_tokens) from usage_by_user').values(),
    ).toEqual(sums)
    database.close()
  }
})
