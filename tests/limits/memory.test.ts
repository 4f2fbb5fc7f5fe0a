import { describe, expect, test } from 'bun:test'
import type { Hold, Limits } from '../../src/limits/admission.ts'
import { createMemoryWindows } from '../../src/limits/memory.ts'
import { describeWindowStore } from '../contract/window-store.ts'

describeWindowStore('windows in memory', createMemoryWindows)

const DAY = 86_400_000
const START = Date.UTC(2026, 2, 14, 9, 26, 53, 589)
const limits = (requestsPerMinute: number | null): Limits => ({
  requestsPerMinute,
  requestsPerDay: null,
  tokensPerMinute: null,
  tokensPerDay: null,
  totalTokens: null,
})

/** Bytes of the numbers reachable from a hold: its own, and its user's record. */
const bytesBehind = (hold: Hold) => {
  const seen = new Set<unknown>()
  const numbersIn = (value: unknown): number => {
    if (typeof value === 'number') return 1
    if (typeof value !== 'object' || value === null || seen.has(value)) return 0
    seen.add(value)
    if (value instanceof Float64Array) return value.length
    return Object.values(value).reduce((sum: number, part) => sum + numbersIn(part), 0)
  }
  return 8 * numbersIn(hold)
}

describe('memory', () => {
  test('whatever the limits and the traffic, a user in use takes at most 16 KB, with a stream of two days 20 KB', () => {
    for (const limit of [null, 1000, 1_000_000]) {
      const store = createMemoryWindows()
      let nowMs = START
      const answer = store.admit(1, limits(limit), { prompt: 10, usual: 1e9 }, 0, nowMs)
      if (!answer.admitted) throw new Error('refused')
      const stream = answer.hold
      const request = () => {
        const short = store.admit(1, limits(limit), { prompt: 10, usual: 10 }, 0, nowMs)
        if (!short.admitted) return
        store.promptDelivered(short.hold, nowMs)
        store.delivered(short.hold, 7, nowMs)
        store.settle(short.hold, { prompt: 8, completion: 6 }, nowMs)
      }
      for (; nowMs < START + 2 * DAY; nowMs += 100_000) {
        request()
        store.delivered(stream, 1, nowMs)
      }
      for (let step = 0; step < 4000; step++) {
        nowMs += 37
        request()
        store.delivered(stream, 1, nowMs)
      }
      expect(store.view(1, limits(limit), 0, nowMs).requestsPerMinute.used).toBeGreaterThan(990)
      expect(bytesBehind(stream)).toBeLessThan(20 * 1024)
      store.settle(stream, { prompt: 10, completion: 5728 }, nowMs)
      const last = store.admit(1, limits(null), { prompt: 10, usual: 1 }, 0, nowMs)
      if (!last.admitted) throw new Error('refused')
      expect(bytesBehind(last.hold)).toBeLessThan(16 * 1024)
    }
  })

  test('a light user takes a few hundred bytes, and a busy minute is given back once it is over', () => {
    const store = createMemoryWindows()
    const first = store.admit(1, limits(null), { prompt: 10, usual: 10 }, 0, START)
    if (!first.admitted) throw new Error('refused')
    expect(bytesBehind(first.hold)).toBeLessThan(700)
    for (let request = 0; request < 1000; request++) {
      store.recall({ user: 1, admittedMs: START, endedMs: START, tokens: 1 }, START)
    }
    expect(bytesBehind(first.hold)).toBeGreaterThan(8 * 1024)
    store.sweep(START + 61_000)
    expect(bytesBehind(first.hold)).toBeLessThan(700)
  })

  test('a history of any length and order is recalled into the same bound', () => {
    const store = createMemoryWindows()
    for (let entry = 0; entry < 50_000; entry++) {
      const endedMs = START - ((entry * 7919) % 50_000) * 3
      store.recall({ user: 1, admittedMs: endedMs - 5000, endedMs, tokens: 2 }, START)
    }
    const answer = store.admit(1, limits(null), { prompt: 1, usual: 1 }, 100_000, START)
    if (!answer.admitted) throw new Error('refused')
    expect(bytesBehind(answer.hold)).toBeLessThan(16 * 1024)
    expect(store.view(1, limits(null), 0, START).tokensPerDay.used).toBe(100_000)
  })
})
