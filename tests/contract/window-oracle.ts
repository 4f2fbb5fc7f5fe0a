/**
 * What the limits mean, by brute force: every event of one user is kept at its exact millisecond for ever, and every
 * question is answered by adding them up. `lateBy` asks as if all events left the window later by that share of it.
 */
import type { Demand, LimitName, Limits } from '../../src/limits/admission.ts'

export const windowMsOf = {
  requestsPerMinute: 60_000,
  requestsPerDay: 86_400_000,
  tokensPerMinute: 60_000,
  tokensPerDay: 86_400_000,
  totalTokens: Number.POSITIVE_INFINITY,
} as const satisfies Record<LimitName, number>
export const limitNames = Object.keys(windowMsOf) as LimitName[]
export const tokenLimitNames = ['tokensPerMinute', 'tokensPerDay', 'totalTokens'] as const
export const isOfRequests = (name: LimitName) => name === 'requestsPerMinute' || name === 'requestsPerDay'

type Event = { atMs: number; requests: number; tokens: number }
export type OracleHold = {
  admittedMs: number
  request: Event
  prompt: number
  read: Event | undefined
  sent: Event[]
  granted: number
}
export type Closed = { admittedMs: number; endedMs: number; tokens: number }

const sum = (numbers: number[]) => numbers.reduce((total, number) => total + number, 0)

export const createOracle = () => {
  let events: Event[] = []
  const closed: Closed[] = []
  /** What really happened, also to requests that a crash cut off. */
  const log: Event[] = []
  const holds = new Set<OracleHold>()
  const sentBy = (hold: OracleHold) => sum(hold.sent.map(event => event.tokens))

  const note = (atMs: number, requests: number, tokens: number) => {
    const event = { atMs, requests, tokens }
    events.push(event)
    log.push(event)
    return event
  }

  const used = (name: LimitName, nowMs: number, lateBy: number) => {
    const windowMs = windowMsOf[name] * (1 + lateBy)
    const inside = events.filter(event => event.atMs + windowMs > nowMs)
    return sum(inside.map(event => (isOfRequests(name) ? event.requests : event.tokens)))
  }

  const reserved = () =>
    sum(
      [...holds].map(
        hold => (hold.read === undefined ? hold.prompt : 0) + Math.max(0, hold.granted - sentBy(hold)),
      ),
    )

  const alone = (demand: Demand) => demand.prompt + Math.min(demand.usual, 1)

  return {
    log,
    holds,
    sentBy,
    used,
    reserved,
    closed: () => closed,
    /** Lifetime tokens of closed requests. */
    settledTotal: () => sum(closed.map(request => request.tokens)),

    /** What the token limits leave. */
    room: (limits: Limits, nowMs: number, lateBy: number) =>
      Math.min(
        ...tokenLimitNames.map(name => {
          const limit = limits[name]
          return limit === null ? Infinity : limit - used(name, nowMs, lateBy) - reserved()
        }),
      ),

    admits(limits: Limits, demand: Demand, nowMs: number, lateBy: (name: LimitName) => number) {
      const tokens = holds.size === 0 ? alone(demand) : demand.prompt + demand.usual
      return limitNames.every(name => {
        const limit = limits[name]
        if (limit === null) return true
        if (limit === 0) return false
        const taken = used(name, nowMs, lateBy(name))
        return isOfRequests(name) ? taken + 1 <= limit : taken + reserved() + tokens <= limit
      })
    },

    /** No waiting helps. */
    isHopeless: (limits: Limits, demand: Demand) =>
      limitNames.some(name => limits[name] === 0) ||
      tokenLimitNames.some(name => alone(demand) > (limits[name] ?? Infinity)) ||
      sum(closed.map(request => request.tokens)) + alone(demand) > (limits.totalTokens ?? Infinity),

    admitted(demand: Demand, granted: number, nowMs: number): OracleHold {
      const request = note(nowMs, 1, 0)
      const hold: OracleHold = {
        admittedMs: nowMs,
        request,
        prompt: demand.prompt,
        read: undefined,
        sent: [],
        granted,
      }
      holds.add(hold)
      return hold
    },
    promptDelivered(hold: OracleHold, nowMs: number) {
      hold.read ??= note(nowMs, 0, hold.prompt)
    },
    delivered(hold: OracleHold, tokens: number, nowMs: number) {
      hold.sent.push(note(nowMs, 0, tokens))
    },
    settle(hold: OracleHold, real: { prompt: number; completion: number }, nowMs: number) {
      if (hold.read === undefined) note(nowMs, 0, real.prompt)
      else hold.read.tokens = real.prompt
      let surplus = sentBy(hold) - real.completion
      if (surplus < 0) note(nowMs, 0, -surplus)
      for (const event of hold.sent.toReversed()) {
        const taken = Math.max(0, Math.min(surplus, event.tokens))
        event.tokens -= taken
        surplus -= taken
      }
      holds.delete(hold)
      closed.push({ admittedMs: hold.admittedMs, endedMs: nowMs, tokens: real.prompt + real.completion })
    },
    withdraw(hold: OracleHold) {
      for (const event of [hold.request, hold.read, ...hold.sent]) {
        if (event !== undefined) Object.assign(event, { requests: 0, tokens: 0 })
      }
      holds.delete(hold)
    },
    /** A crash and a start: what was in flight counts as all that was granted, tokens count at the end of a request. */
    restart(nowMs: number) {
      for (const hold of holds) {
        const tokens = hold.prompt + Math.max(hold.granted, sentBy(hold))
        closed.push({ admittedMs: hold.admittedMs, endedMs: nowMs, tokens })
      }
      holds.clear()
      events = closed.flatMap(({ admittedMs, endedMs, tokens }) => [
        { atMs: Math.min(admittedMs, nowMs), requests: 1, tokens: 0 },
        { atMs: Math.min(endedMs, nowMs), requests: 0, tokens },
      ])
    },
  }
}
