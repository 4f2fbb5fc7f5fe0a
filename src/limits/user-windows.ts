/**
 * One user's windows held against its limits: what is used, what is left, and why not and until when. The rules of
 * admission stand here, whoever keeps the record.
 */
import type { Demand, LimitName, Limits, Refusal } from './admission.ts'
import {
  advance,
  type Cells,
  completeAt,
  createCells,
  createStamps,
  DAY_MS,
  expire,
  fewerThanAt,
  freedAt,
  isComplete,
  MINUTE_MS,
  type Stamps,
} from './window.ts'

export type User = {
  stamps: Stamps
  minute: Cells
  day: Cells
  /** Lifetime tokens, those delivered by requests in flight included; NaN until the first admission brings it. */
  total: number
  /** The part of `total` that requests in flight have delivered. */
  unsettled: number
  reserved: number
  inFlight: number
  forgotten: boolean
}

/** From the shortest window to the total: of equal waits the later name is told. */
const limitNames = [
  'requestsPerMinute',
  'requestsPerDay',
  'tokensPerMinute',
  'tokensPerDay',
  'totalTokens',
] as const satisfies LimitName[]

/** Reservations end when their requests do, which nobody can foretell: ask again soon. */
const RESERVED_RETRY_MS = 1000

export const createUser = (): User => ({
  stamps: createStamps(),
  minute: createCells(MINUTE_MS),
  day: createCells(DAY_MS),
  total: Number.NaN,
  unsettled: 0,
  reserved: 0,
  inFlight: 0,
  forgotten: false,
})

export const age = (user: User, nowMs: number) => {
  advance(user.minute, nowMs)
  advance(user.day, nowMs)
  expire(user.stamps, nowMs)
}

/** A limit of 0 leaves less than nothing, so that even a request that needs no token is refused. */
const left = (limit: number | null, used: number) => {
  if (limit === null) return Infinity
  return limit === 0 ? -Infinity : limit - used
}

export const tokensLeft = (user: User, limits: Limits) =>
  Math.min(
    left(limits.tokensPerMinute, user.minute.tokens),
    left(limits.tokensPerDay, user.day.tokens),
    left(limits.totalTokens, user.total),
  ) - user.reserved

/** By stamps where these are complete, else by cells, which count at least as many. */
const minuteRequests = ({ stamps, minute }: User, nowMs: number) =>
  isComplete(stamps, nowMs) ? stamps.length : minute.requests

export const usedOf = (user: User, name: LimitName, nowMs: number): number => {
  switch (name) {
    case 'requestsPerMinute':
      return minuteRequests(user, nowMs)
    case 'requestsPerDay':
      return user.day.requests
    case 'tokensPerMinute':
      return user.minute.tokens
    case 'tokensPerDay':
      return user.day.tokens
    case 'totalTokens':
      return user.total
  }
}

/** The first instant at which one more request fits under the minute's limit. */
const minuteFreedAt = ({ stamps, minute }: User, limit: number) =>
  stamps.length >= limit
    ? fewerThanAt(stamps, limit)
    : // Refused by the cells: until enough of these have left, or the stamps are complete again and say so.
      Math.min(freedAt(minute, 'requests', minute.requests + 1 - limit), completeAt(stamps))

const isOfRequests = (name: LimitName) => name === 'requestsPerMinute' || name === 'requestsPerDay'

/**
 * Why `limit` refuses, or undefined when it does not. Waits look past reservations: the answer is when the request
 * would be admitted alone if nothing reserved were delivered, but no sooner than it makes sense to ask again.
 */
const refusalBy = (
  user: User,
  limits: Limits,
  name: LimitName,
  demand: Demand,
  nowMs: number,
): Refusal | undefined => {
  const size = limits[name]
  if (size === null) return undefined
  const used = usedOf(user, name, nowMs)
  const ofRequests = isOfRequests(name)
  const alone = ofRequests ? 1 : demand.prompt + Math.min(demand.usual, 1)
  const needed = ofRequests || user.inFlight === 0 ? alone : demand.prompt + demand.usual
  const reserved = ofRequests ? 0 : user.reserved
  if (left(size, used) - reserved >= needed) return undefined

  const quotaFilled = name === 'totalTokens' && user.total - user.unsettled >= size
  const retryAfterMs = waitFor(user, name, size, alone, nowMs)
  return { admitted: false, limit: name, size, used, reserved, needed, quotaFilled, retryAfterMs }
}

/** Until a request that needs `alone` is admitted if nothing else comes; null when waiting cannot help. */
const waitFor = (user: User, name: LimitName, size: number, alone: number, nowMs: number): number | null => {
  if (size === 0 || alone > size) return null
  const used = usedOf(user, name, nowMs)
  // What requests in flight have delivered may turn out less when they settle, and of the total nothing else returns.
  const lasting = name === 'totalTokens' ? user.total - user.unsettled : used
  if (lasting + alone <= size) return RESERVED_RETRY_MS
  if (name === 'totalTokens') return null

  const ofRequests = isOfRequests(name)
  const freed =
    name === 'requestsPerMinute'
      ? minuteFreedAt(user, size)
      : freedAt(
          name === 'tokensPerMinute' ? user.minute : user.day,
          ofRequests ? 'requests' : 'tokens',
          used + alone - size,
        )
  const waitMs = Math.max(1, Math.ceil(freed - nowMs))
  return ofRequests || user.inFlight === 0 ? waitMs : Math.max(RESERVED_RETRY_MS, waitMs)
}

/** The limit with the longest wait. */
export const refuse = (user: User, limits: Limits, demand: Demand, nowMs: number): Refusal | undefined => {
  let longest: Refusal | undefined
  for (const name of limitNames) {
    const refusal = refusalBy(user, limits, name, demand, nowMs)
    if (refusal === undefined) continue
    if (longest === undefined || (refusal.retryAfterMs ?? Infinity) >= (longest.retryAfterMs ?? Infinity))
      longest = refusal
  }
  return longest
}
