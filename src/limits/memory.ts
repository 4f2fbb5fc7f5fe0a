/**
 * The windows of all users in this process's memory: a Map, one record a user with any history, rebuilt from the
 * ledger at start. The clock only goes forward here: an instant before the last one seen counts as that one.
 *
 * A user's record holds four sums (requests and tokens of the minute and the day, see window.ts), the lifetime total,
 * and what is reserved by requests in flight; a reservation counts against all three token limits alike. So an
 * admission is a few additions and comparisons, and at most 13.5 KB a user are held whatever the limits and the
 * traffic, plus up to 4 KB for a request in flight.
 */
import type { Hold, WindowStore } from './admission.ts'
import { age, createUser, refuse, tokensLeft, type User, usedOf } from './user-windows.ts'
import {
  add,
  addAlong,
  addedNowLeavesAt,
  type Cells,
  cellAt,
  DAY_MS,
  emptyAt,
  isComplete,
  lastLeavesAt,
  MINUTE_MS,
  release,
  stamp,
  type Trail,
  takeBack,
  unstamp,
} from './window.ts'

/** What the store knows behind a Hold. */
type Held = {
  readonly user: number
  granted: number
  readonly room: number
  readonly owner: User
  readonly admittedMs: number
  /** The estimate: reserved, and once the prompt is read delivered, in the cells of that instant. */
  readonly prompt: number
  promptRead: boolean
  promptMinute: number
  promptDay: number
  /** Output tokens delivered, and in which cells. */
  sent: number
  readonly sentMinute: Trail
  readonly sentDay: Trail
  closed: boolean
}

const SWEPT_A_CALL = 1000

/** Tokens delivered now. */
const charge = (user: User, tokens: number) => {
  add(user.minute, user.minute.current, 0, tokens)
  add(user.day, user.day.current, 0, tokens)
  user.total += tokens
}

/** Gives back what a hold has reserved and not delivered, and closes it. */
const close = (hold: Held) => {
  const user = hold.owner
  const promptUnread = hold.promptRead ? 0 : hold.prompt
  user.reserved -= promptUnread + Math.max(0, hold.granted - hold.sent)
  user.unsettled -= hold.prompt - promptUnread + hold.sent
  user.inFlight--
  hold.closed = true
}

/** Makes what the prompt and the output have delivered into `prompt` and at most `completion`, where they were. */
const correct = (hold: Held, prompt: number, completion: number) => {
  const user = hold.owner
  if (hold.promptRead) {
    add(user.minute, hold.promptMinute, 0, prompt - hold.prompt)
    add(user.day, hold.promptDay, 0, prompt - hold.prompt)
    user.total += prompt - hold.prompt
  }
  const surplus = hold.sent - completion
  if (surplus > 0) {
    takeBack(user.minute, hold.sentMinute, surplus)
    takeBack(user.day, hold.sentDay, surplus)
    user.total -= surplus
  }
}

/** What is reserved may be delivered now at the earliest. */
const tokensEmptyAt = (cells: Cells, reserved: number, nowMs: number): number =>
  reserved > 0 ? addedNowLeavesAt(cells) : (emptyAt(cells, 'tokens') ?? nowMs)

export const createMemoryWindows = (): WindowStore => {
  const users = new Map<number, User>()
  let lastMs = Number.NEGATIVE_INFINITY
  let sweeping = users.entries()

  const tick = (nowMs: number) => {
    if (nowMs > lastMs) lastMs = nowMs
    return lastMs
  }

  /** The record as of now, made when there is none. */
  const userAt = (number: number, nowMs: number) => {
    let user = users.get(number)
    if (user === undefined) {
      user = createUser()
      users.set(number, user)
    }
    age(user, nowMs)
    return user
  }

  /** Every hold that reaches this store was made by it; undefined once closed. */
  const open = (hold: Hold): Held | undefined => {
    const held = hold as Held
    return held.closed || held.owner.forgotten ? undefined : held
  }

  return {
    admit(number, limits, demand, settledTotal, nowMs) {
      const now = tick(nowMs)
      const user = userAt(number, now)
      if (Number.isNaN(user.total)) user.total = settledTotal
      const refusal = refuse(user, limits, demand, now)
      if (refusal !== undefined) return refusal
      const { prompt, usual } = demand
      const room = tokensLeft(user, limits) - prompt
      const granted = Math.min(usual, room)
      stamp(user.stamps, now)
      add(user.minute, user.minute.current, 1, 0)
      add(user.day, user.day.current, 1, 0)
      user.reserved += prompt + granted
      user.inFlight++
      const hold: Held = {
        user: number,
        granted,
        room,
        owner: user,
        admittedMs: now,
        prompt,
        promptRead: false,
        promptMinute: 0,
        promptDay: 0,
        sent: 0,
        sentMinute: [],
        sentDay: [],
        closed: false,
      }
      return { admitted: true, hold }
    },
    refusal(number, limits, demand, nowMs) {
      const user = users.get(number)
      const now = tick(nowMs)
      if (user === undefined || Number.isNaN(user.total)) return undefined
      age(user, now)
      return refuse(user, limits, demand, now)
    },
    needsTotal(number) {
      const user = users.get(number)
      return user === undefined || Number.isNaN(user.total)
    },
    promptDelivered(hold, nowMs) {
      const held = open(hold)
      const now = tick(nowMs)
      if (held === undefined || held.promptRead) return
      const user = held.owner
      age(user, now)
      held.promptRead = true
      held.promptMinute = user.minute.current
      held.promptDay = user.day.current
      charge(user, held.prompt)
      user.reserved -= held.prompt
      user.unsettled += held.prompt
    },
    delivered(hold, tokens, nowMs) {
      const held = open(hold)
      const now = tick(nowMs)
      if (held === undefined) return
      const user = held.owner
      age(user, now)
      addAlong(user.minute, held.sentMinute, tokens)
      addAlong(user.day, held.sentDay, tokens)
      user.total += tokens
      user.unsettled += tokens
      user.reserved -= Math.min(tokens, Math.max(0, held.granted - held.sent))
      held.sent += tokens
    },
    extend(hold, limits, least, wanted, nowMs) {
      const held = open(hold)
      const now = tick(nowMs)
      if (held === undefined) return 0
      age(held.owner, now)
      const room = tokensLeft(held.owner, limits)
      if (room <= 0 || room < least) return 0
      const granted = Math.min(wanted, room)
      held.granted += granted
      held.owner.reserved += granted
      return granted
    },
    room(hold, limits, nowMs) {
      const held = open(hold)
      const now = tick(nowMs)
      if (held === undefined) return 0
      age(held.owner, now)
      return held.granted + Math.max(0, tokensLeft(held.owner, limits))
    },
    settle(hold, real, nowMs) {
      const held = open(hold)
      const now = tick(nowMs)
      if (held === undefined) return
      age(held.owner, now)
      close(held)
      correct(held, real.prompt, real.completion)
      const late = (held.promptRead ? 0 : real.prompt) + Math.max(0, real.completion - held.sent)
      charge(held.owner, late)
    },
    withdraw(hold) {
      const held = open(hold)
      if (held === undefined) return
      const user = held.owner
      age(user, lastMs)
      close(held)
      correct(held, 0, 0)
      unstamp(user.stamps, held.admittedMs)
      add(user.minute, cellAt(user.minute, held.admittedMs), -1, 0)
      add(user.day, cellAt(user.day, held.admittedMs), -1, 0)
    },
    view(number, limits, settledTotal, nowMs) {
      const now = tick(nowMs)
      const user = users.get(number) ?? createUser()
      age(user, now)
      const { stamps, minute, day, reserved } = user
      const requestsEmptyMs = isComplete(stamps, now) ? lastLeavesAt(stamps) : emptyAt(minute, 'requests')
      const total = Number.isNaN(user.total) ? settledTotal : usedOf(user, 'totalTokens', now)
      return {
        requestsPerMinute: {
          used: usedOf(user, 'requestsPerMinute', now),
          reserved: 0,
          limit: limits.requestsPerMinute,
          resetsAtMs: requestsEmptyMs ?? now,
        },
        requestsPerDay: {
          used: usedOf(user, 'requestsPerDay', now),
          reserved: 0,
          limit: limits.requestsPerDay,
          resetsAtMs: emptyAt(day, 'requests') ?? now,
        },
        tokensPerMinute: {
          used: usedOf(user, 'tokensPerMinute', now),
          reserved,
          limit: limits.tokensPerMinute,
          resetsAtMs: tokensEmptyAt(minute, reserved, now),
        },
        tokensPerDay: {
          used: usedOf(user, 'tokensPerDay', now),
          reserved,
          limit: limits.tokensPerDay,
          resetsAtMs: tokensEmptyAt(day, reserved, now),
        },
        totalTokens: { used: total, reserved, limit: limits.totalTokens, resetsAtMs: null },
      }
    },
    forget(number) {
      const user = users.get(number)
      if (user !== undefined) user.forgotten = true
      users.delete(number)
    },
    recall({ user: number, admittedMs, endedMs, tokens }, nowMs) {
      const now = tick(nowMs)
      const admitted = Math.min(admittedMs, now)
      const ended = Math.min(endedMs, now)
      if (Math.max(admitted, ended) + DAY_MS <= now) return
      const { stamps, minute, day } = userAt(number, now)
      if (admitted + DAY_MS > now) add(day, cellAt(day, admitted), 1, 0)
      if (ended + DAY_MS > now) add(day, cellAt(day, ended), 0, tokens)
      if (admitted + MINUTE_MS > now) {
        stamp(stamps, admitted)
        add(minute, cellAt(minute, admitted), 1, 0)
      }
      if (ended + MINUTE_MS > now) add(minute, cellAt(minute, ended), 0, tokens)
    },
    sweep(nowMs) {
      const now = tick(nowMs)
      for (let swept = 0; swept < SWEPT_A_CALL; swept++) {
        const next = sweeping.next()
        if (next.done) {
          sweeping = users.entries()
          return
        }
        const [number, user] = next.value
        age(user, now)
        if (user.inFlight === 0 && user.day.requests === 0 && user.day.tokens === 0) users.delete(number)
        else release(user.stamps, user.minute)
      }
    },
  }
}
