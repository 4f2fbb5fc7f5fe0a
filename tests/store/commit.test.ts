import { describe, expect, test } from 'bun:test'
import { isStorageFull } from '../../src/store/commit.ts'
import {
  crashGrants,
  openRequests,
  usage,
  usageByDay,
  usageByHour,
  usageByUser,
} from '../../src/store/schema.ts'
import { batch, closing, HOUR, idAt, newKey, opening, openMemory, T0, unlimited } from './support.ts'

describe('a group of writes', () => {
  test('opens, grants, checkpoints and closes a request', () => {
    const { db, commit } = openMemory()
    const id = idAt(T0)
    commit(batch({ open: [opening({ id })], grant: [{ id, completionPromised: 1024 }] }))
    commit(batch({ checkpoint: [{ id, promptCounted: 12, completionCounted: 16, atMs: 900 }] }))
    expect(db.select().from(openRequests).all()).toEqual([
      expect.objectContaining({ id, completionPromised: 1024, promptCounted: 12, completionCounted: 16 }),
    ])
    expect(db.select().from(usage).all()).toEqual([])
    commit(batch({ close: [closing({ id })] }))
    expect(db.select().from(openRequests).all()).toEqual([])
    expect(db.select().from(usage).all()).toEqual([expect.objectContaining({ id, promptTokens: 10 })])
  })

  test('may hold a request whole, from its opening to its close', () => {
    const { db, commit } = openMemory()
    const id = idAt(T0)
    commit(batch({ open: [opening({ id })], close: [closing({ id })] }))
    expect(db.select().from(openRequests).all()).toEqual([])
    expect(db.select().from(usage).all()).toHaveLength(1)
  })

  test('a close that comes twice counts once, in the row and in every sum', () => {
    const { db, commit } = openMemory()
    const id = idAt(T0)
    const row = closing({ id, price: { input: 3, output: 7 } })
    commit(batch({ close: [row, row] }))
    commit(batch({ close: [{ ...row, promptTokens: 999 }] }))
    expect(db.select().from(usage).all()).toEqual([expect.objectContaining({ promptTokens: 10 })])
    for (const table of [usageByUser, usageByHour, usageByDay])
      expect(db.select().from(table).all()).toEqual([
        expect.objectContaining({
          requests: 1,
          promptTokens: 10,
          completionTokens: 5,
          costMicro: 0,
          costPico: 65,
        }),
      ])
  })

  test('that fails leaves nothing of itself', () => {
    const { db, commit } = openMemory()
    const first = idAt(T0)
    commit(batch({ open: [opening({ id: first })] }))
    const second = closing({ id: idAt(T0, 1) })
    // The second opening of the same id is refused by the table.
    expect(() =>
      commit(batch({ open: [opening({ id: idAt(T0, 2) }), opening({ id: first })], close: [second] })),
    ).toThrow()
    expect(db.select().from(openRequests).all()).toHaveLength(1)
    expect(db.select().from(usage).all()).toEqual([])
    expect(db.select().from(usageByUser).all()).toEqual([])
  })

  test('on a full disk fails as such and whole, and goes through when there is space', () => {
    const { db, sqlite, commit } = openMemory()
    const { page_count: pages } = sqlite.query<{ page_count: number }, []>('pragma page_count').get() ?? {
      page_count: 0,
    }
    sqlite.run(`pragma max_page_count = ${pages}`)
    const rows = Array.from({ length: 500 }, (_, i) =>
      closing({ id: idAt(T0, i), userNumber: i, modelId: i }),
    )
    let fault: unknown
    try {
      commit(batch({ close: rows }))
    } catch (error) {
      fault = error
    }
    expect(isStorageFull(fault)).toBe(true)
    expect(isStorageFull(new Error('no such table'))).toBe(false)
    expect(isStorageFull(new Error('wrapped', { cause: fault }))).toBe(true)
    expect(db.select().from(usage).all()).toEqual([])
    sqlite.run('pragma max_page_count = 1000000')
    commit(batch({ close: rows }))
    expect(db.select().from(usage).all()).toHaveLength(500)
    expect(sqlite.query('pragma integrity_check').values()).toEqual([['ok']])
  })

  test('keeps the last use of a key and the last thing learnt of a model', async () => {
    const { store, commit } = openMemory()
    const user = await store.createUser('alice', unlimited, newKey('a'), T0)
    const keyId = user?.key.id ?? 0
    const modelId = await store.modelId('llama3')
    commit(
      batch({
        keyUse: [
          { keyId, atMs: T0 + 5 },
          { keyId, atMs: T0 + 3 },
        ],
        learnt: [
          { modelId, text: 'old' },
          { modelId, text: 'new' },
        ],
      }),
    )
    commit(batch({ keyUse: [{ keyId, atMs: T0 + 4 }] }))
    const [key] = await store.listKeys(user?.userNumber ?? 0, { limit: 1 })
    expect(key?.lastUsedAt).toBe(T0 + 5)
    expect(await store.listLearnt()).toEqual([{ model: 'llama3', text: 'new' }])
  })

  test('keeps the preview of a living user only', async () => {
    const { store, sqlite, commit } = openMemory()
    const alice = await store.createUser('alice', unlimited, newKey('a'), T0)
    const userNumber = alice?.userNumber ?? 0
    commit(batch({ open: [opening({ id: idAt(T0), userNumber, preview: 'Hello' })] }))
    expect(sqlite.query('select * from prompt_previews').values()).toEqual([[idAt(T0), userNumber, 'Hello']])
    await store.deleteUser('alice', T0)
    await store.erasePreviews(userNumber)
    commit(batch({ open: [opening({ id: idAt(T0, 1), userNumber, preview: 'Too late' })] }))
    expect(sqlite.query('select * from prompt_previews').values()).toEqual([])
  })

  test('puts a request into the hour and the day of its start', () => {
    const { db, commit } = openMemory()
    commit(batch({ close: [closing({ id: idAt(T0 + HOUR - 1), durationMs: 5 * HOUR })] }))
    expect(db.select().from(usageByHour).all()).toEqual([
      expect.objectContaining({ hour: T0 / HOUR, lastEndMs: T0 + 6 * HOUR - 1 }),
    ])
    expect(db.select().from(usageByDay).all()).toEqual([expect.objectContaining({ day: T0 / HOUR / 24 })])
    expect(db.select().from(crashGrants).all()).toEqual([])
  })
})
