import { describe, expect, test } from 'bun:test'
import { type Batch, createLedger } from '../../src/store/ledger.ts'
import { closing } from './support.ts'

/** A ledger whose groups are written when `turn` is called, as by a turn of the event loop. */
const createTurned = () => {
  const groups: Batch[] = []
  let tasks: (() => void)[] = []
  let failing = false
  const ledger = createLedger({
    commit(batch) {
      if (failing) throw new Error('full')
      groups.push(batch)
    },
    soon: task => void tasks.push(task),
    later: (_, task) => void tasks.push(task),
    onFault: () => {},
  })
  return {
    ledger,
    groups,
    fail(now: boolean) {
      failing = now
    },
    turn() {
      const due = tasks
      tasks = []
      for (const task of due) task()
    },
  }
}

const stream = (id: number) => {
  const state = { id, tokens: 0, asked: 0 }
  return {
    state,
    id,
    checkpoint() {
      state.asked++
      return { id, promptCounted: 1, completionCounted: state.tokens, atMs: 0 }
    },
  }
}
describe('checkpoints', () => {
  test('an offered one waits for a group of others and says what is true when that is written', () => {
    const { ledger, groups, turn } = createTurned()
    const one = stream(1)
    one.state.tokens = 8
    ledger.offerCheckpoint(one, false)
    turn()
    expect([groups.length, one.state.asked]).toEqual([0, 0])
    one.state.tokens = 11
    void ledger.close(closing({ id: 2 }))
    one.state.tokens = 12
    turn()
    expect(groups.map(group => group.checkpoint.map(point => point.completionCounted))).toEqual([[12]])
    void ledger.close(closing({ id: 3 }))
    turn()
    expect(one.state.asked).toBe(1)
  })

  test('a demanded one is written soon, and takes those along that were offered', () => {
    const { ledger, groups, turn } = createTurned()
    ledger.offerCheckpoint(stream(1), false)
    ledger.checkpoint(stream(2))
    turn()
    expect(groups.map(group => group.checkpoint.map(point => point.id))).toEqual([[2, 1]])
    ledger.offerCheckpoint(stream(3), true)
    turn()
    expect(groups.at(-1)?.checkpoint.map(point => point.id)).toEqual([3])
  })

  test('thousands are written 256 at a time, a turn of the event loop between, each once', () => {
    const { ledger, groups, turn } = createTurned()
    for (let id = 1; id <= 600; id++) ledger.offerCheckpoint(stream(id), false)
    ledger.checkpoint(stream(601))
    for (let turns = 0; turns < 5; turns++) turn()
    expect(groups.map(group => group.checkpoint.length)).toEqual([256, 256, 89])
    expect(new Set(groups.flatMap(group => group.checkpoint.map(point => point.id))).size).toBe(601)
  })

  test('who waits for what is committed waits for its own checkpoint, however many were offered before', async () => {
    const { ledger, groups, turn } = createTurned()
    for (let id = 1; id <= 3000; id++) ledger.offerCheckpoint(stream(id), true)
    for (let id = 3001; id <= 3600; id++) ledger.checkpoint(stream(id))
    const committed = ledger.committed()
    turn()
    await committed
    const written = groups.flatMap(group => group.checkpoint.map(point => point.id))
    expect(written).toEqual(Array.from({ length: 600 }, (_, index) => 3001 + index))
  })

  test('of a request that was closed none is written any more', () => {
    const { ledger, groups, turn } = createTurned()
    ledger.checkpoint(stream(1))
    void ledger.close(closing({ id: 1 }))
    turn()
    expect(groups.map(group => [group.checkpoint.length, group.close.length])).toEqual([[0, 1]])
  })
})

test('all who wait for a group that fails are told so, and its closings are tried again', async () => {
  const { ledger, groups, turn, fail } = createTurned()
  fail(true)
  const waiting = [ledger.committed(), ledger.close(closing({ id: 1 })), ledger.grant(1, 5)]
  const told = Promise.allSettled(waiting)
  turn()
  expect((await told).map(one => one.status)).toEqual(['rejected', 'rejected', 'rejected'])
  expect(ledger.pending).toBe(1)
  fail(false)
  turn()
  turn()
  expect(groups.flatMap(group => group.close.map(row => row.id))).toEqual([1])
  expect(ledger.pending).toBe(0)
})
