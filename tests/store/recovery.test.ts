import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { lastId, recent, recover } from '../../src/store/recovery.ts'
import { retire } from '../../src/store/retention.ts'
import { usage } from '../../src/store/schema.ts'
import { batch, closing, DAY, HOUR, idAt, opening, openMemory, T0 } from './support.ts'

describe('after a crash', () => {
  test('an open request is closed by its last checkpoint at the price of its start, once', async () => {
    const { db, store, commit } = openMemory()
    const id = idAt(T0)
    commit(batch({ open: [opening({ id, price: { input: 2, output: 3 } })] }))
    commit(batch({ checkpoint: [{ id, promptCounted: 12, completionCounted: 16, atMs: 900 }] }))
    expect(recover(db, T0 + 5000)).toBe(1)
    expect(recover(db, T0 + 6000)).toBe(0)
    expect(db.select().from(usage).all()).toEqual([
      expect.objectContaining({
        id,
        outcome: 3,
        basis: 2,
        promptTokens: 12,
        completionTokens: 16,
        costPico: 72,
        durationMs: 900,
        firstTokenMs: null,
      }),
    ])
    expect(await store.settledTotal(1)).toBe(28)
  })

  test('all that was promised counts for the windows from the restart on, though the bill is lower', () => {
    const { db, commit } = openMemory()
    const id = idAt(T0)
    commit(batch({ open: [opening({ id, promptPromised: 20, completionPromised: 512 })] }))
    commit(batch({ checkpoint: [{ id, promptCounted: 12, completionCounted: 16, atMs: 900 }] }))
    recover(db, T0 + 5000)
    expect([...recent(db, T0 - DAY)]).toEqual([
      { user: 1, admittedMs: T0 + 1, endedMs: T0 + 900, tokens: 0 },
      { user: 1, admittedMs: -Infinity, endedMs: T0 + 5000, tokens: 532 },
    ])
    recover(db, T0 + 5000 + 25 * HOUR + 1)
    expect([...recent(db, T0 - DAY)]).toEqual([
      { user: 1, admittedMs: T0 + 1, endedMs: T0 + 900, tokens: 28 },
    ])
  })

  test('a request without a checkpoint costs the prompt that its opening says, and lived until its admission', () => {
    const { db, commit } = openMemory()
    commit(batch({ open: [opening({ id: idAt(T0), promptCounted: 18, admittedAfterMs: 2 })] }))
    recover(db, T0 + 5000)
    expect(db.select().from(usage).all()).toEqual([
      expect.objectContaining({ promptTokens: 18, completionTokens: 0, durationMs: 2 }),
    ])
    expect([...recent(db, T0 + 1)]).toContainEqual({
      user: 1,
      admittedMs: T0 + 2,
      endedMs: T0 + 2,
      tokens: 0,
    })
  })

  test('the previews of a user deleted halfway are erased', () => {
    const { db, sqlite } = openMemory()
    sqlite.run('insert into user_numbers values (1, 5), (2, null)')
    sqlite.run("insert into prompt_previews values (7, 1, 'secret'), (8, 2, 'kept')")
    recover(db, T0)
    expect(sqlite.query('select text from prompt_previews').values()).toEqual([['kept']])
  })
})

describe('the past for the windows', () => {
  test('is every request that ended after the instant, however long it ran', () => {
    const request = fc.record({
      startMs: fc.integer({ min: 0, max: 3 * DAY }),
      durationMs: fc.oneof(fc.integer({ min: 0, max: 60_000 }), fc.integer({ min: 0, max: 2 * DAY })),
    })
    fc.assert(
      fc.property(
        fc.array(request, { maxLength: 40 }),
        fc.integer({ min: 0, max: 4 * DAY }),
        (requests, sinceMs) => {
          const { db, sqlite, commit } = openMemory()
          const rows = requests.map(({ startMs, durationMs }, i) =>
            closing({ id: idAt(T0 + startMs, i), durationMs }),
          )
          commit(batch({ close: rows }))
          const wanted = requests
            .map(({ startMs, durationMs }) => T0 + startMs + durationMs)
            .filter(endMs => endMs > T0 + sinceMs)
          const found = [...recent(db, T0 + sinceMs)].map(past => past.endedMs)
          expect(found.sort()).toEqual(wanted.sort())
          sqlite.close()
        },
      ),
      { numRuns: 30 },
    )
  })

  test('comes in pages without losing a row between them', () => {
    const { db, commit } = openMemory()
    const rows = Array.from({ length: 20_001 }, (_, i) => closing({ id: idAt(T0, i) }))
    commit(batch({ close: rows }))
    let tokens = 0
    for (const past of recent(db, T0)) tokens += past.tokens
    expect(tokens).toBe(20_001 * 15)
  })
})

describe('the last id', () => {
  test('is the largest of closed, open and archived requests', () => {
    const { db, commit } = openMemory()
    expect(lastId(db)).toBe(0)
    commit(batch({ close: [closing({ id: idAt(T0, 5) })] }))
    expect(lastId(db)).toBe(idAt(T0, 5))
    commit(batch({ open: [opening({ id: idAt(T0, 9) })] }))
    expect(lastId(db)).toBe(idAt(T0, 9))
    commit(batch({ close: [closing({ id: idAt(T0, 9) })] }))
    retire(db, T0 + DAY, 10)
    expect(lastId(db)).toBe(idAt(T0 + HOUR))
  })
})
