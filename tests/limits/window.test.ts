import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import {
  add,
  addAlong,
  advance,
  cellAt,
  createCells,
  createStamps,
  DAY_MS,
  emptyAt,
  expire,
  fewerThanAt,
  freedAt,
  isComplete,
  lastLeavesAt,
  MINUTE_MS,
  stamp,
  type Trail,
  takeBack,
  unstamp,
} from '../../src/limits/window.ts'

const START = Date.UTC(2026, 2, 14, 9, 26, 53, 589)

describe('cells', () => {
  const events = fc.array(
    fc.record({ waitMs: fc.oneof(fc.nat(900), fc.nat(90_000)), agoMs: fc.nat(70_000), tokens: fc.nat(50) }),
    { maxLength: 150 },
  )

  test('what is counted leaves at most 1 % of the window late and never early', () => {
    fc.assert(
      fc.property(events, fc.constantFrom(MINUTE_MS, DAY_MS), (steps, windowMs) => {
        const cells = createCells(windowMs)
        const scale = windowMs / MINUTE_MS
        const log: { atMs: number; tokens: number }[] = []
        let nowMs = START
        const sumOver = (spanMs: number) =>
          log.reduce((sum, { atMs, tokens }) => (atMs + spanMs > nowMs ? sum + tokens : sum), 0)
        for (const { waitMs, agoMs, tokens } of steps) {
          nowMs += waitMs * scale
          advance(cells, nowMs)
          expect(cells.tokens).toBeGreaterThanOrEqual(sumOver(windowMs))
          expect(cells.tokens).toBeLessThanOrEqual(sumOver(windowMs * 1.01))
          const atMs = nowMs - agoMs * scale
          add(cells, cellAt(cells, atMs), 1, tokens)
          log.push({ atMs, tokens })
          expect(cells.length).toBeLessThanOrEqual(101)
          expect(cells.list.length).toBeLessThanOrEqual(303)
        }
      }),
      { includeErrorInReport: true },
    )
  })

  test('the instant at which so much has left is tight', () => {
    fc.assert(
      fc.property(events, fc.integer({ min: 1, max: 2000 }), (steps, wanted) => {
        const fill = () => {
          const cells = createCells(MINUTE_MS)
          let nowMs = START
          for (const { waitMs, tokens } of steps) {
            nowMs += waitMs
            advance(cells, nowMs)
            add(cells, cells.current, 1, tokens)
          }
          return cells
        }
        const cells = fill()
        const excess = Math.min(wanted, cells.tokens)
        if (excess === 0) return
        const atMs = freedAt(cells, 'tokens', excess)
        const before = fill()
        advance(before, atMs - 1)
        expect(cells.tokens - before.tokens).toBeLessThan(excess)
        advance(before, atMs)
        expect(cells.tokens - before.tokens).toBeGreaterThanOrEqual(excess)
        expect(emptyAt(cells, 'tokens')).toBe(freedAt(cells, 'tokens', cells.tokens))
      }),
      { includeErrorInReport: true },
    )
  })

  test('a surplus is taken back where it was added, newest first', () => {
    const cells = createCells(MINUTE_MS)
    const trail: Trail = []
    for (const [atMs, tokens] of [
      [START, 5],
      [START + 100, 5],
      [START + 30_000, 7],
    ] as const) {
      advance(cells, atMs)
      addAlong(cells, trail, tokens)
    }
    takeBack(cells, trail, 9)
    expect(cells.tokens).toBe(8)
    advance(cells, START + 61_000)
    expect(cells.tokens).toBe(0)
  })

  test('the trail of an endless answer is bounded, and what has left the window cannot be taken back', () => {
    const cells = createCells(MINUTE_MS)
    const trail: Trail = []
    for (let step = 0; step < 1000; step++) {
      advance(cells, START + step * 600)
      addAlong(cells, trail, 1)
    }
    expect(trail.length).toBe(202)
    expect(cells.tokens).toBe(101)
    takeBack(cells, trail, 1000)
    expect(cells.tokens).toBe(0)
  })
})

describe('stamps', () => {
  const steps = fc.array(
    fc.record({
      waitMs: fc.oneof(fc.nat(3), fc.nat(20_000)),
      count: fc.oneof(fc.nat(3), fc.nat(600)),
      agoMs: fc.oneof(fc.constant(0), fc.nat(30_000)),
      removed: fc.nat(4),
    }),
    { maxLength: 12 },
  )

  test('of any history the newest thousand of a minute are known to the millisecond', () => {
    fc.assert(
      fc.property(steps, fc.integer({ min: 1, max: 1000 }), (history, limit) => {
        const stamps = createStamps()
        let log: number[] = []
        let removedInAll = 0
        let nowMs = START
        for (const { waitMs, count, agoMs, removed } of history) {
          nowMs += waitMs
          expire(stamps, nowMs)
          for (let index = 0; index < count; index++) {
            const atMs = nowMs - ((index * 7) % (agoMs + 1))
            stamp(stamps, atMs)
            log.push(atMs)
          }
          log = log.filter(atMs => atMs + MINUTE_MS > nowMs).sort((a, b) => a - b)
          for (let index = 0; index < removed && removedInAll < 24; index++) {
            const [gone] = log.splice(-1 - index, 1)
            if (gone === undefined) break
            unstamp(stamps, gone)
            removedInAll++
          }
          expect(Math.min(stamps.length, 1000)).toBe(Math.min(log.length, 1000))
          if (log.length > stamps.length) expect(isComplete(stamps, nowMs)).toBe(false)
          if (log.length >= limit) expect(fewerThanAt(stamps, limit)).toBe((log.at(-limit) ?? 0) + MINUTE_MS)
          const newest = log.at(-1)
          expect(lastLeavesAt(stamps)).toBe(newest === undefined ? undefined : newest + MINUTE_MS)
          expect(stamps.ring.length).toBeLessThanOrEqual(1024)
        }
      }),
      { numRuns: 100, includeErrorInReport: true },
    )
  })

  test('the ring grows only as needed', () => {
    const stamps = createStamps()
    for (let second = 0; second < 600; second++) {
      expire(stamps, START + second * 1000)
      stamp(stamps, START + second * 1000)
    }
    expect([stamps.length, stamps.ring.length]).toEqual([60, 64])
  })
})
