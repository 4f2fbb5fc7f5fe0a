/** What every WindowStore must hold to, in memory or elsewhere. */
import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import type { Demand, Hold, LimitName, Limits, Refusal, WindowStore } from '../../src/limits/admission.ts'
import { createOracle, isOfRequests, limitNames, type OracleHold, windowMsOf } from './window-oracle.ts'

const MINUTE = 60_000
const DAY = 86_400_000
/** Not at the boundary of any minute, cell or day. */
const START = Date.UTC(2026, 2, 14, 9, 26, 53, 589)

export const unlimited: Limits = {
  requestsPerMinute: null,
  requestsPerDay: null,
  tokensPerMinute: null,
  tokensPerDay: null,
  totalTokens: null,
}

type Step =
  | { do: 'pass'; ms: number }
  | { do: 'clock back'; ms: number }
  | { do: 'admit'; demand: Demand; insist: boolean }
  | { do: 'prompt'; which: number }
  | { do: 'deliver'; which: number; share: number }
  | { do: 'extend'; which: number; least: number; wanted: number }
  | { do: 'settle'; which: number; prompt: number; completion: number }
  | { do: 'fail'; which: number }
  | { do: 'withdraw'; which: number }
  | { do: 'limit'; name: LimitName; size: number | null }
  | { do: 'restart' }
  | { do: 'sweep' }

const which = fc.nat(5)
const tokens = fc.oneof(fc.nat(3), fc.nat(60))
const share = fc.double({ min: 0, max: 1, noNaN: true })
const size = fc.oneof(
  { arbitrary: fc.constant(null), weight: 2 },
  { arbitrary: fc.integer({ min: 1, max: 8 }), weight: 2 },
  { arbitrary: fc.integer({ min: 20, max: 300 }), weight: 4 },
  { arbitrary: fc.constant(0), weight: 1 },
)
const mostly = (arbitrary: fc.Arbitrary<Step>, weight: number) => ({ arbitrary, weight })

const pass = fc.record({
  do: fc.constant('pass' as const),
  ms: fc.oneof(
    fc.nat(900),
    fc.nat(900),
    fc.nat(30_000),
    fc.constantFrom(59_999, 60_000, 60_600),
    fc.nat(DAY + DAY / 50),
  ),
})
const admit = fc.record({
  do: fc.constant('admit' as const),
  demand: fc.record({ prompt: tokens, usual: tokens }),
  insist: fc.boolean(),
})
/** Everything that can happen while the limits stand, Ollama counts no prompt higher than estimated and time goes on. */
const calm = [
  mostly(pass, 6),
  mostly(admit, 8),
  mostly(fc.record({ do: fc.constant('prompt' as const), which }), 4),
  mostly(fc.record({ do: fc.constant('deliver' as const), which, share }), 6),
  mostly(
    fc.record({
      do: fc.constant('extend' as const),
      which,
      least: fc.integer({ min: 1, max: 9 }),
      wanted: fc.integer({ min: 9, max: 60 }),
    }),
    3,
  ),
  mostly(fc.record({ do: fc.constant('settle' as const), which, prompt: share, completion: share }), 4),
  mostly(fc.record({ do: fc.constant('fail' as const), which }), 1),
  mostly(fc.record({ do: fc.constant('withdraw' as const), which }), 1),
  mostly(fc.record({ do: fc.constant('restart' as const) }), 1),
  mostly(fc.record({ do: fc.constant('sweep' as const) }), 1),
]
const wild = [
  ...calm,
  mostly(fc.record({ do: fc.constant('clock back' as const), ms: fc.nat(2 * 3_600_000) }), 1),
  mostly(fc.record({ do: fc.constant('limit' as const), name: fc.constantFrom(...limitNames), size }), 3),
  // Ollama counted the prompt, and more text than was granted, higher than anyone had thought.
  mostly(
    fc.record({
      do: fc.constant('settle' as const),
      which,
      prompt: fc.double({ min: 0, max: 3, noNaN: true }),
      completion: fc.double({ min: 0, max: 2, noNaN: true }),
    }),
    1,
  ),
]
const limitsOf = (limit: fc.Arbitrary<number | null>): fc.Arbitrary<Limits> =>
  fc.record({
    requestsPerMinute: limit,
    requestsPerDay: limit,
    tokensPerMinute: limit,
    tokensPerDay: limit,
    totalTokens: fc.option(fc.integer({ min: 100, max: 3000 })),
  })

/** Lives one history in the store and in the oracle, comparing at every step; returns the oracle's log. */
const live = (make: () => WindowStore, startLimits: Limits, steps: readonly Step[]) => {
  const user = 7
  const oracle = createOracle()
  let store = make()
  let limits = startLimits
  let clock = START
  let seen = Number.NEGATIVE_INFINITY
  let pairs: { hold: Hold; twin: OracleHold }[] = []
  /** The instant that counts, and the one that the clock shows. */
  const now = () => {
    seen = Math.max(seen, clock)
    return seen
  }
  /** The largest share of the window by which what is counted may leave late. */
  const lateness = (name: LimitName) => (name === 'requestsPerMinute' || name === 'totalTokens' ? 0 : 0.01)
  const total = () => (store.needsTotal(user) ? oracle.settledTotal() : Number.NaN)

  const compareViews = () => {
    const view = store.view(user, limits, total(), clock)
    for (const name of limitNames) {
      const { used, reserved, limit, resetsAtMs } = view[name]
      expect(used).toBeGreaterThanOrEqual(oracle.used(name, now(), 0))
      expect(used).toBeLessThanOrEqual(oracle.used(name, now(), lateness(name)))
      expect(reserved).toBe(isOfRequests(name) ? 0 : oracle.reserved())
      expect(limit).toBe(limits[name])
      if (name === 'totalTokens') expect(resetsAtMs).toBeNull()
      else if (reserved > 0) expect(resetsAtMs).toBeGreaterThanOrEqual(now() + windowMsOf[name])
      else if (used === 0) expect(resetsAtMs).toBe(now())
      else expect(resetsAtMs).toBeGreaterThan(now())
    }
  }

  const compareRefusal = (refusal: Refusal, demand: Demand) => {
    const { limit, retryAfterMs } = refusal
    expect(refusal.size).toBe(limits[limit] ?? Number.NaN)
    expect(refusal.used).toBeGreaterThanOrEqual(oracle.used(limit, now(), 0))
    expect(refusal.used).toBeLessThanOrEqual(oracle.used(limit, now(), lateness(limit)))
    expect(retryAfterMs === null).toBe(oracle.isHopeless(limits, demand))
    expect(refusal.quotaFilled).toBe(limit === 'totalTokens' && oracle.settledTotal() >= refusal.size)
    if (retryAfterMs === null) return
    expect(Number.isInteger(retryAfterMs)).toBe(true)
    expect(retryAfterMs).toBeGreaterThanOrEqual(oracle.holds.size > 0 && !isOfRequests(limit) ? 1000 : 1)
  }

  const ask = (demand: Demand) => {
    const least = oracle.room(limits, now(), 0.01) - demand.prompt
    const most = oracle.room(limits, now(), 0) - demand.prompt
    const mayAdmit = oracle.admits(limits, demand, now(), () => 0)
    const mustAdmit = oracle.admits(limits, demand, now(), lateness)
    const answer = store.admit(user, limits, demand, total(), clock)
    if (answer.admitted) {
      expect(mayAdmit).toBe(true)
      expect(answer.hold.room).toBeGreaterThanOrEqual(least)
      expect(answer.hold.room).toBeLessThanOrEqual(most)
      expect(answer.hold.granted).toBe(Math.min(demand.usual, answer.hold.room))
      pairs.push({ hold: answer.hold, twin: oracle.admitted(demand, answer.hold.granted, now()) })
    } else {
      expect(mustAdmit).toBe(false)
      compareRefusal(answer, demand)
    }
    return answer
  }

  const take = (step: Step) => {
    if (step.do === 'pass') clock += step.ms
    else if (step.do === 'clock back') clock -= step.ms
    else if (step.do === 'limit') limits = { ...limits, [step.name]: step.size }
    else if (step.do === 'sweep') store.sweep(clock)
    else if (step.do === 'admit') {
      const answer = ask(step.demand)
      if (answer.admitted || answer.retryAfterMs === null || !step.insist || pairs.length > 0) return
      clock = now() + answer.retryAfterMs - 1
      if (answer.retryAfterMs > 1) expect(ask(step.demand).admitted).toBe(false)
      clock++
      expect(ask(step.demand).admitted).toBe(true)
    } else if (step.do === 'restart') {
      seen = clock
      oracle.restart(now())
      pairs = []
      store = make()
      // Newest first: the rebuild may come in any order.
      for (const entry of oracle.closed().toReversed()) store.recall({ user, ...entry }, clock)
    } else {
      const pair = pairs[step.which % pairs.length]
      if (pair === undefined) return
      const { hold, twin } = pair
      if (step.do === 'prompt') {
        store.promptDelivered(hold, clock)
        oracle.promptDelivered(twin, now())
      } else if (step.do === 'deliver') {
        const tokens = Math.round(step.share * (twin.granted - oracle.sentBy(twin)))
        store.delivered(hold, tokens, clock)
        oracle.delivered(twin, tokens, now())
      } else if (step.do === 'extend') {
        const least = oracle.room(limits, now(), 0.01)
        const most = oracle.room(limits, now(), 0)
        const gained = store.extend(hold, limits, step.least, step.wanted, clock)
        twin.granted += gained
        expect(hold.granted).toBe(twin.granted)
        expect(gained).toBeLessThanOrEqual(Math.max(0, Math.min(step.wanted, most)))
        if (gained === 0) expect(least).toBeLessThan(step.least)
        else expect(gained).toBeGreaterThanOrEqual(Math.max(step.least, Math.min(step.wanted, least)))
      } else {
        if (step.do === 'withdraw') {
          store.withdraw(hold)
          oracle.withdraw(twin)
        } else {
          const real =
            step.do === 'fail'
              ? { prompt: 0, completion: 0 }
              : {
                  prompt: Math.floor(step.prompt * twin.prompt),
                  completion: Math.floor(step.completion * twin.granted),
                }
          store.settle(hold, real, clock)
          oracle.settle(twin, real, now())
        }
        pairs = pairs.filter(other => other !== pair)
        // Closed once: nothing that comes later has any effect, as the next comparison shows.
        store.settle(hold, { prompt: 5, completion: 5 }, clock)
        store.promptDelivered(hold, clock)
        store.delivered(hold, 3, clock)
        store.withdraw(hold)
        expect(store.extend(hold, unlimited, 1, 1, clock)).toBe(0)
      }
    }
  }

  for (const step of steps) {
    take(step)
    compareViews()
  }
  for (const { hold, twin } of pairs) {
    store.settle(hold, { prompt: 0, completion: 0 }, clock)
    oracle.settle(twin, { prompt: 0, completion: 0 }, now())
  }
  clock = now() + DAY * 1.01
  const view = store.view(user, limits, total(), clock)
  for (const name of limitNames) {
    expect(view[name].used).toBe(name === 'totalTokens' ? oracle.settledTotal() : 0)
    expect(view[name].reserved).toBe(0)
  }
  for (let call = 0; call < 3; call++) store.sweep(clock)
  expect(store.needsTotal(user)).toBe(true)
  return oracle.log
}

export const describeWindowStore = (name: string, make: () => WindowStore) => {
  /** Admits and ends the request at once, as a plain answer. */
  const spend = (store: WindowStore, limits: Limits, demand: Demand, atMs: number) => {
    const answer = store.admit(1, limits, demand, 0, atMs)
    if (answer.admitted) store.settle(answer.hold, { prompt: demand.prompt, completion: demand.usual }, atMs)
    return answer
  }
  const admitted = (answer: ReturnType<WindowStore['admit']>): Hold => {
    if (!answer.admitted) throw new Error(`refused by ${answer.limit}`)
    return answer.hold
  }
  const refused = (answer: ReturnType<WindowStore['admit']>): Refusal => {
    if (answer.admitted) throw new Error('admitted')
    return answer
  }
  const asks = (prompt: number, usual: number): Demand => ({ prompt, usual })
  const usedAndReserved = (store: WindowStore, limits: Limits, atMs: number) => {
    const { tokensPerMinute, tokensPerDay, totalTokens } = store.view(1, limits, 0, atMs)
    expect([tokensPerDay.used, tokensPerDay.reserved]).toEqual([
      tokensPerMinute.used,
      tokensPerMinute.reserved,
    ])
    expect([totalTokens.used, totalTokens.reserved]).toEqual([tokensPerMinute.used, tokensPerMinute.reserved])
    return [tokensPerMinute.used, tokensPerMinute.reserved]
  }

  describe(`${name}: histories`, () => {
    test('any history is admitted as by exact addition, or at most 1 % of the window later', () => {
      fc.assert(
        fc.property(
          limitsOf(size),
          fc.array(fc.oneof(...wild), { maxLength: 60, size: 'max' }),
          (limits, steps) => {
            live(make, limits, steps)
          },
        ),
        { numRuns: 5000, includeErrorInReport: true },
      )
    })

    test('no window of any beginning holds more than the limit', () => {
      fc.assert(
        fc.property(
          limitsOf(fc.option(fc.integer({ min: 1, max: 120 }), { freq: 8 })),
          fc.array(fc.oneof(...calm), { minLength: 20, maxLength: 120, size: 'max' }),
          (limits, steps) => {
            const log = live(make, limits, steps)
            for (const name of limitNames) {
              for (const { atMs: endMs } of log) {
                const inside = log.filter(({ atMs }) => atMs > endMs - windowMsOf[name] && atMs <= endMs)
                const sum = inside.reduce(
                  (all, event) => all + (isOfRequests(name) ? event.requests : event.tokens),
                  0,
                )
                expect(sum).toBeLessThanOrEqual(limits[name] ?? Infinity)
              }
            }
          },
        ),
        { numRuns: 300, includeErrorInReport: true },
      )
    }, 30_000)

    test('request limits that rise above and fall below 1,000 never admit early, and are exact below', () => {
      const bursts = fc.array(
        fc.record({
          ms: fc.oneof(fc.nat(2000), fc.nat(40_000)),
          limit: fc.constantFrom(3, 900, 999, 1000, 1001, 1300, null),
          tries: fc.oneof(fc.nat(40), fc.integer({ min: 900, max: 1400 })),
          withdrawn: fc.oneof(fc.constant(0), fc.nat(12), fc.nat(600)),
        }),
        { minLength: 2, maxLength: 8 },
      )
      fc.assert(
        fc.property(bursts, steps => {
          const store = make()
          let nowMs = START
          const log: number[] = []
          let withdrawnInAll = 0
          const usedWithin = (windowMs: number) => log.filter(atMs => atMs + windowMs > nowMs).length
          for (const { ms, limit, tries, withdrawn } of steps) {
            nowMs += ms
            const limits = { ...unlimited, requestsPerMinute: limit }
            const ask = () => store.admit(1, limits, asks(0, 0), 0, nowMs)
            const fitting = (used: number) => Math.max(0, Math.min(tries, (limit ?? Infinity) - used))
            const most = fitting(usedWithin(MINUTE))
            const isExact = limit !== null && limit <= 1000 && withdrawnInAll <= 24
            const least = isExact ? most : fitting(usedWithin(MINUTE * 1.01))
            const answers = Array.from({ length: tries }, ask)
            const holds = answers.filter(answer => answer.admitted).map(admitted)
            expect(holds.length).toBeLessThanOrEqual(most)
            expect(holds.length).toBeGreaterThanOrEqual(least)
            const kept = Math.max(0, holds.length - withdrawn)
            for (const hold of holds.slice(kept)) store.withdraw(hold)
            withdrawnInAll += holds.length - kept
            for (let index = 0; index < kept; index++) log.push(nowMs)

            const answer = ask()
            if (answer.admitted) store.withdraw(answer.hold)
            else if (answer.retryAfterMs !== null) {
              nowMs += answer.retryAfterMs - 1
              if (answer.retryAfterMs > 1) expect(ask().admitted).toBe(false)
              nowMs++
              store.withdraw(admitted(ask()))
            }
          }
        }),
        { numRuns: 150, includeErrorInReport: true },
      )
    }, 30_000)
  })

  describe(`${name}: admission`, () => {
    test('forty parallel admissions under a limit of ten admit exactly ten', () => {
      for (const name of ['requestsPerMinute', 'requestsPerDay'] as const) {
        const store = make()
        const limits = { ...unlimited, [name]: 10 }
        const answers = Array.from({ length: 40 }, () => store.admit(1, limits, asks(5, 5), 0, START))
        expect(answers.filter(answer => answer.admitted).length).toBe(10)
      }
      const store = make()
      const answers = Array.from({ length: 40 }, () =>
        store.admit(1, { ...unlimited, tokensPerMinute: 109 }, asks(5, 5), 0, START),
      )
      expect(answers.filter(answer => answer.admitted).length).toBe(10)
    })

    test('a refusal takes nothing in any window', () => {
      const store = make()
      const limits = { ...unlimited, requestsPerMinute: 5, totalTokens: 20 }
      for (let attempt = 0; attempt < 9; attempt++) refused(store.admit(1, limits, asks(20, 5), 0, START))
      const view = store.view(1, limits, 0, START)
      for (const name of limitNames) expect([view[name].used, view[name].reserved]).toEqual([0, 0])
    })

    test('the refusal told beforehand is the one that admitting gives, and takes nothing', () => {
      const store = make()
      const limits = { ...unlimited, requestsPerMinute: 2, tokensPerDay: 300 }
      expect(store.refusal(1, limits, asks(1, 1), START)).toBeUndefined()
      for (const atMs of [START, START + 7001]) spend(store, limits, asks(20, 30), atMs)
      const nowMs = START + 9000
      for (const demand of [asks(1, 1), asks(200, 0), asks(201, 5), asks(400, 1)]) {
        const told = store.refusal(1, limits, demand, nowMs)
        expect(told).toBeDefined()
        expect(store.refusal(1, limits, demand, nowMs)).toEqual(told as Refusal)
        expect(store.admit(1, limits, demand, 0, nowMs)).toEqual(told as Refusal)
      }
      expect(store.view(1, limits, 0, nowMs).requestsPerMinute.used).toBe(2)
      expect(store.refusal(1, limits, asks(1, 1), START + MINUTE)).toBeUndefined()
    })

    test('a request limit that is named for a larger need is named for every smaller one', () => {
      const small = fc.integer({ min: 0, max: 60 })
      fc.assert(
        fc.property(
          limitsOf(size),
          fc.array(fc.tuple(fc.nat(70_000), small, small), { maxLength: 12 }),
          small,
          small,
          fc.nat(100),
          (limits, past, prompt, usual, more) => {
            const store = make()
            let nowMs = START
            for (const [pauseMs, ...demand] of past) {
              nowMs += pauseMs
              spend(store, limits, asks(...demand), nowMs)
            }
            const named = store.refusal(1, limits, asks(prompt + more, usual + more), nowMs)
            if (named === undefined || !isOfRequests(named.limit)) return
            expect(store.admit(1, limits, asks(prompt, usual), 0, nowMs)).toEqual(named)
          },
        ),
        { numRuns: 3000 },
      )
    })

    test('alone it needs its prompt and one token, beside others its prompt and a usual answer', () => {
      const limits = { ...unlimited, tokensPerMinute: 500 }
      const store = make()
      const hold = admitted(store.admit(1, limits, asks(20, 512), 0, START))
      expect([hold.granted, hold.room]).toEqual([480, 480])
      store.settle(hold, { prompt: 20, completion: 100 }, START)
      const second = admitted(store.admit(1, limits, asks(100, 200), 0, START))
      expect([second.granted, second.room]).toEqual([200, 280])
      const third = refused(store.admit(1, limits, asks(30, 60), 0, START))
      expect(third).toMatchObject({
        limit: 'tokensPerMinute',
        size: 500,
        used: 120,
        reserved: 300,
        needed: 90,
      })
      expect(admitted(store.admit(1, limits, asks(30, 50), 0, START)).granted).toBe(50)
      const exact = make()
      expect(admitted(exact.admit(1, limits, asks(499, 512), 0, START)).granted).toBe(1)
      expect(exact.admit(2, limits, asks(500, 512), 0, START).admitted).toBe(false)
      expect(exact.admit(2, limits, asks(500, 0), 0, START).admitted).toBe(true)
    })

    test('users do not share windows, and room is infinite where no token limit is set', () => {
      const store = make()
      const limits = { ...unlimited, requestsPerMinute: 1 }
      expect(admitted(store.admit(1, limits, asks(5, 7), 0, START))).toMatchObject({
        user: 1,
        granted: 7,
        room: Infinity,
      })
      expect(store.admit(2, limits, asks(5, 7), 0, START).admitted).toBe(true)
      expect(store.admit(1, limits, asks(5, 7), 0, START).admitted).toBe(false)
    })

    test('a client that bursts at the edge of every minute for five minutes gets the limit, not twice the limit', () => {
      // By tokens what came right after one edge still counts right after the next, in its cell of 0.6 s.
      for (const [limit, servedInAll] of [
        [{ requestsPerMinute: 10 }, 50],
        [{ tokensPerMinute: 100 }, 40],
      ] as const) {
        const limits = { ...unlimited, ...limit }
        const store = make()
        const firstEdge = Math.ceil(START / MINUTE) * MINUTE
        const served: number[] = []
        for (let minute = 0; minute < 5; minute++) {
          for (const atMs of [-2, -1, 0, 1]) {
            const nowMs = firstEdge + minute * MINUTE + atMs
            for (let attempt = 0; attempt < 40; attempt++) {
              if (spend(store, limits, asks(4, 6), nowMs).admitted) served.push(nowMs)
            }
          }
        }
        for (const endMs of served) {
          expect(served.filter(atMs => atMs > endMs - MINUTE && atMs <= endMs).length).toBeLessThanOrEqual(10)
        }
        expect(served.length).toBe(servedInAll)
      }
    })

    test('a request counts for one window and not a millisecond more', () => {
      const store = make()
      const limits = { ...unlimited, requestsPerMinute: 2 }
      expect(spend(store, limits, asks(1, 1), START).admitted).toBe(true)
      expect(spend(store, limits, asks(1, 1), START + 10).admitted).toBe(true)
      expect(refused(spend(store, limits, asks(1, 1), START + 20)).retryAfterMs).toBe(MINUTE - 20)
      expect(spend(store, limits, asks(1, 1), START + MINUTE - 1).admitted).toBe(false)
      expect(spend(store, limits, asks(1, 1), START + MINUTE).admitted).toBe(true)
      expect(spend(store, limits, asks(1, 1), START + MINUTE).admitted).toBe(false)
    })

    test('a clock that goes back stands still', () => {
      const store = make()
      const limits = { ...unlimited, requestsPerMinute: 1 }
      expect(spend(store, limits, asks(1, 1), START).admitted).toBe(true)
      expect(refused(spend(store, limits, asks(1, 1), START - 3_600_000)).retryAfterMs).toBe(MINUTE)
      expect(spend(store, limits, asks(1, 1), START + MINUTE).admitted).toBe(true)
    })
  })

  describe(`${name}: when to come back`, () => {
    test('of several limits the one with the longest wait is named', () => {
      const store = make()
      const limits = { ...unlimited, requestsPerMinute: 1, requestsPerDay: 1, tokensPerMinute: 10 }
      spend(store, limits, asks(5, 5), START)
      const refusal = refused(store.admit(1, limits, asks(5, 5), 0, START))
      expect(refusal).toMatchObject({ limit: 'requestsPerDay', size: 1, used: 1, reserved: 0, needed: 1 })
      expect(refusal.retryAfterMs).toBeGreaterThanOrEqual(DAY)
      expect(refusal.retryAfterMs).toBeLessThanOrEqual(DAY * 1.01)
    })

    test('a second when only reservations stand in the way, in the windows and in the total', () => {
      for (const name of ['tokensPerMinute', 'tokensPerDay', 'totalTokens'] as const) {
        const store = make()
        const limits = { ...unlimited, [name]: 100 }
        admitted(store.admit(1, limits, asks(40, 50), 0, START))
        const refusal = refused(store.admit(1, limits, asks(40, 50), 0, START))
        expect(refusal).toMatchObject({
          limit: name,
          used: 0,
          reserved: 90,
          retryAfterMs: 1000,
          quotaFilled: false,
        })
      }
    })

    test('with delivered use in the way too, when that leaves, but no sooner than in a second', () => {
      const store = make()
      const limits = { ...unlimited, tokensPerMinute: 100 }
      spend(store, limits, asks(60, 20), START)
      const late = START + MINUTE - 300
      admitted(store.admit(1, limits, asks(1, 1), 0, late))
      expect(refused(store.admit(1, limits, asks(30, 10), 0, START + 30_000)).retryAfterMs).toBe(1000)
      const refusal = refused(store.admit(1, limits, asks(40, 10), 0, late))
      expect(refusal.retryAfterMs).toBe(1000)
      const other = make()
      spend(other, limits, asks(60, 20), START)
      admitted(other.admit(1, limits, asks(1, 1), 0, START + 1000))
      const wait = refused(other.admit(1, limits, asks(40, 10), 0, START + 1000)).retryAfterMs
      expect(wait).toBeGreaterThanOrEqual(MINUTE - 1000)
      expect(wait).toBeLessThanOrEqual(MINUTE * 1.01 - 1000)
    })

    test('never when the need is over the limit, the limit is 0 or the total lacks room', () => {
      const cases: [Partial<Limits>, Demand, number, boolean][] = [
        [{ tokensPerMinute: 100 }, asks(100, 512), 0, false],
        [{ tokensPerDay: 100 }, asks(101, 0), 0, false],
        [{ requestsPerMinute: 0 }, asks(1, 1), 0, false],
        [{ requestsPerDay: 0 }, asks(1, 1), 0, false],
        [{ tokensPerMinute: 0 }, asks(0, 0), 0, false],
        [{ totalTokens: 0 }, asks(0, 0), 0, true],
        [{ totalTokens: 100 }, asks(10, 5), 95, false],
        [{ totalTokens: 100 }, asks(10, 5), 100, true],
        [{ totalTokens: 100 }, asks(10, 5), 130, true],
      ]
      for (const [change, demand, settledTotal, quotaFilled] of cases) {
        const refusal = refused(make().admit(1, { ...unlimited, ...change }, demand, settledTotal, START))
        expect(refusal).toMatchObject({ limit: Object.keys(change)[0], retryAfterMs: null, quotaFilled })
      }
    })

    test('the total is filled by settled use only, not by what requests in flight have delivered', () => {
      const store = make()
      const limits = { ...unlimited, totalTokens: 100 }
      const hold = admitted(store.admit(1, limits, asks(60, 40), 0, START))
      store.promptDelivered(hold, START)
      store.delivered(hold, 40, START)
      expect(refused(store.admit(1, limits, asks(1, 1), 0, START))).toMatchObject({
        used: 100,
        quotaFilled: false,
        retryAfterMs: 1000,
      })
      store.settle(hold, { prompt: 60, completion: 40 }, START)
      expect(refused(store.admit(1, limits, asks(1, 1), 0, START))).toMatchObject({
        used: 100,
        quotaFilled: true,
        retryAfterMs: null,
      })
    })
  })

  describe(`${name}: the life of a hold`, () => {
    test('what was promised counts as reserved, then as delivered, and what was not used returns', () => {
      const store = make()
      const limits = { ...unlimited, tokensPerMinute: 1000, tokensPerDay: 1000, totalTokens: 1000 }
      const hold = admitted(store.admit(1, limits, asks(30, 50), 0, START))
      expect(usedAndReserved(store, limits, START)).toEqual([0, 80])
      store.promptDelivered(hold, START)
      store.promptDelivered(hold, START)
      expect(usedAndReserved(store, limits, START)).toEqual([30, 50])
      store.delivered(hold, 20, START)
      expect(usedAndReserved(store, limits, START)).toEqual([50, 30])
      expect(store.extend(hold, limits, 1, 10, START)).toBe(10)
      expect(hold.granted).toBe(60)
      expect(usedAndReserved(store, limits, START)).toEqual([50, 40])
      store.settle(hold, { prompt: 25, completion: 18 }, START)
      expect(usedAndReserved(store, limits, START)).toEqual([43, 0])
    })

    test('a plain answer counts from its end, a stream as it is delivered, its prompt from the first line', () => {
      const store = make()
      const limits = { ...unlimited, tokensPerMinute: 100 }
      const plain = admitted(store.admit(1, limits, asks(10, 20), 0, START))
      const stream = admitted(store.admit(1, limits, asks(10, 20), 0, START))
      store.promptDelivered(stream, START + 10_000)
      store.delivered(stream, 20, START + 20_000)
      store.settle(stream, { prompt: 12, completion: 20 }, START + 40_000)
      store.settle(plain, { prompt: 10, completion: 20 }, START + 40_000)
      const used = (atMs: number) => store.view(1, limits, 0, atMs).tokensPerMinute.used
      expect(used(START + 69_999)).toBe(62)
      expect(used(START + 70_600)).toBe(50)
      expect(used(START + 79_999)).toBe(50)
      expect(used(START + 80_600)).toBe(30)
      expect(used(START + 99_999)).toBe(30)
      expect(used(START + 100_600)).toBe(0)
    })

    test('a request that failed before any work costs no tokens but counts as a request; a withdrawn one does not', () => {
      const store = make()
      const limits = { ...unlimited, requestsPerMinute: 2, tokensPerMinute: 100 }
      store.settle(
        admitted(store.admit(1, limits, asks(40, 50), 0, START)),
        { prompt: 0, completion: 0 },
        START,
      )
      store.withdraw(admitted(store.admit(1, limits, asks(40, 50), 0, START)))
      expect(usedAndReserved(store, { ...limits }, START)).toEqual([0, 0])
      const view = store.view(1, limits, 0, START)
      expect([view.requestsPerMinute.used, view.requestsPerDay.used]).toEqual([1, 1])
    })

    test('a prompt that Ollama counts higher is charged, over the limit if need be', () => {
      const store = make()
      const limits = { ...unlimited, tokensPerMinute: 100 }
      const hold = admitted(store.admit(1, limits, asks(40, 60), 0, START))
      store.promptDelivered(hold, START)
      store.settle(hold, { prompt: 90, completion: 60 }, START)
      expect(usedAndReserved(store, limits, START)).toEqual([150, 0])
    })

    test('an extension keeps to the limits as they are now and gives no less than asked at least', () => {
      const store = make()
      const limits = { ...unlimited, tokensPerMinute: 100 }
      const hold = admitted(store.admit(1, limits, asks(30, 50), 0, START))
      expect(store.extend(hold, limits, 21, 64, START)).toBe(0)
      expect(store.extend(hold, { ...limits, tokensPerMinute: 60 }, 1, 64, START)).toBe(0)
      expect(store.extend(hold, { ...limits, tokensPerMinute: 0 }, 1, 64, START)).toBe(0)
      expect(store.extend(hold, limits, 20, 64, START)).toBe(20)
      expect(store.extend(hold, limits, 1, 64, START)).toBe(0)
      expect(store.extend(hold, unlimited, 1, 64, START)).toBe(64)
      expect(hold.granted).toBe(134)
    })

    test('what may be generated is what is granted and what is left beside it, as the limits are now', () => {
      const store = make()
      const limits = { ...unlimited, tokensPerMinute: 1000 }
      const first = admitted(store.admit(1, limits, asks(100, 50), 0, START))
      expect([store.room(first, limits, START), first.room]).toEqual([900, 900])
      const second = admitted(store.admit(1, limits, asks(20, 200), 0, START))
      expect(store.room(first, limits, START)).toBe(680)
      store.settle(second, { prompt: 20, completion: 500 }, START)
      expect(store.room(first, limits, START)).toBe(380)
      expect(store.room(first, { ...limits, tokensPerMinute: 10 }, START)).toBe(50)
      expect(store.room(first, unlimited, START)).toBe(Number.POSITIVE_INFINITY)
      store.settle(first, { prompt: 100, completion: 1 }, START)
      expect(store.room(first, limits, START)).toBe(0)
    })

    test('an answer of two days keeps in the windows what was delivered inside them', () => {
      const store = make()
      const limits = { ...unlimited, tokensPerMinute: 1e9, tokensPerDay: 1e9 }
      const hold = admitted(store.admit(1, limits, asks(10, 1e6), 0, START))
      store.promptDelivered(hold, START)
      let nowMs = START
      for (let step = 0; step < 2 * 24 * 60 * 6; step++) {
        nowMs += 10_000
        store.delivered(hold, 1, nowMs)
      }
      const inDay = store.view(1, limits, 0, nowMs).tokensPerDay.used
      expect(inDay).toBeGreaterThanOrEqual(8640)
      expect(inDay).toBeLessThanOrEqual(8727)
      store.settle(hold, { prompt: 10, completion: 2 * 8640 - 1000 }, nowMs)
      const view = store.view(1, limits, 0, nowMs)
      expect([view.tokensPerMinute.used, view.tokensPerDay.used, view.totalTokens.used]).toEqual([
        0,
        inDay - 1000,
        2 * 8640 - 990,
      ])
    })
  })

  describe(`${name}: views, users, restart`, () => {
    test('a window is empty at the instant the view says, and not before', () => {
      const store = make()
      const limits = { ...unlimited, requestsPerMinute: 5 }
      expect(store.view(1, limits, 3, START)).toEqual({
        requestsPerMinute: { used: 0, reserved: 0, limit: 5, resetsAtMs: START },
        requestsPerDay: { used: 0, reserved: 0, limit: null, resetsAtMs: START },
        tokensPerMinute: { used: 0, reserved: 0, limit: null, resetsAtMs: START },
        tokensPerDay: { used: 0, reserved: 0, limit: null, resetsAtMs: START },
        totalTokens: { used: 3, reserved: 0, limit: null, resetsAtMs: null },
      })
      for (const name of [
        'requestsPerMinute',
        'tokensPerMinute',
        'requestsPerDay',
        'tokensPerDay',
      ] as const) {
        const used = make()
        spend(used, limits, asks(1, 1), START)
        spend(used, limits, asks(1, 1), START + 777)
        const emptyMs = used.view(1, limits, 0, START + 777)[name].resetsAtMs ?? Number.NaN
        const earliestMs = START + 777 + windowMsOf[name]
        expect(emptyMs).toBeGreaterThanOrEqual(earliestMs)
        expect(emptyMs).toBeLessThanOrEqual(
          earliestMs + (name === 'requestsPerMinute' ? 0 : windowMsOf[name] / 100),
        )
        expect(used.view(1, limits, 0, emptyMs - 1)[name].used).toBeGreaterThan(0)
        expect(used.view(1, limits, 0, emptyMs)[name]).toMatchObject({ used: 0, resetsAtMs: emptyMs })
      }
    })

    test('holds of a forgotten user have no effect on the user who comes after', () => {
      const store = make()
      const limits = { ...unlimited, tokensPerMinute: 100 }
      const hold = admitted(store.admit(1, limits, asks(10, 20), 0, START))
      store.forget(1)
      expect(store.needsTotal(1)).toBe(true)
      expect(store.extend(hold, limits, 1, 5, START)).toBe(0)
      admitted(store.admit(1, limits, asks(3, 4), 0, START))
      store.promptDelivered(hold, START)
      store.delivered(hold, 5, START)
      store.settle(hold, { prompt: 10, completion: 20 }, START)
      store.withdraw(hold)
      expect(usedAndReserved(store, limits, START)).toEqual([0, 7])
      expect(store.view(1, limits, 0, START).requestsPerMinute.used).toBe(1)
    })

    test('what is recalled counts, the future as now, the past beyond the window not at all', () => {
      const store = make()
      const limits = { ...unlimited, requestsPerMinute: 2 }
      const at = (admittedMs: number, endedMs: number, tokens: number) =>
        store.recall({ user: 1, admittedMs: START + admittedMs, endedMs: START + endedMs, tokens }, START)
      at(3_600_000, 7_200_000, 1)
      at(-59_999, -100, 10)
      at(-60_000, -59_999, 100)
      at(-DAY, 1 - DAY, 1000)
      at(-2 * DAY, -DAY, 10_000)
      const view = store.view(1, limits, 11_111, START)
      expect(view.requestsPerMinute.used).toBe(2)
      expect(view.requestsPerDay.used).toBe(3)
      expect(view.tokensPerMinute.used).toBe(111)
      expect(view.tokensPerDay.used).toBe(1111)
      expect(view.totalTokens.used).toBe(11_111)
      expect(store.needsTotal(1)).toBe(true)
      expect(refused(store.admit(1, limits, asks(1, 1), 11_111, START)).retryAfterMs).toBe(1)
      expect(store.needsTotal(1)).toBe(false)
      expect(store.admit(1, limits, asks(1, 1), Number.NaN, START + 1).admitted).toBe(true)
    })

    test('a clock that was put back an hour over a restart locks nobody out', () => {
      const store = make()
      const limits = { ...unlimited, requestsPerMinute: 1, tokensPerMinute: 10 }
      store.recall({ user: 1, admittedMs: START + 3_600_000, endedMs: START + 3_600_000, tokens: 10 }, START)
      const { retryAfterMs } = refused(store.admit(1, limits, asks(5, 5), 10, START))
      expect(retryAfterMs).toBeGreaterThanOrEqual(MINUTE)
      expect(retryAfterMs).toBeLessThanOrEqual(MINUTE * 1.01)
      expect(store.admit(1, limits, asks(5, 5), 10, START + MINUTE * 1.01).admitted).toBe(true)
    })

    test('sweeping drops the idle and no one else', () => {
      const store = make()
      for (let user = 0; user < 2500; user++) {
        const answer = store.admit(user, unlimited, asks(1, 1), 5, START)
        if (user !== 7) store.settle(admitted(answer), { prompt: 1, completion: 1 }, START)
      }
      const count = (atMs: number) => {
        for (let call = 0; call < 8; call++) store.sweep(atMs)
        return Array.from({ length: 2500 }, (_, user) => user).filter(user => !store.needsTotal(user))
      }
      expect(count(START + DAY - 1).length).toBe(2500)
      expect(count(START + DAY * 1.01)).toEqual([7])
    })
  })
}
