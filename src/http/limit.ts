/** The limiting middleware: asks admission, puts the permit on the context, or answers 429 with an honest time. */
import type { MiddlewareHandler } from 'hono'
import { ApiError, type Fault } from '../errors.ts'
import type { LimitName, LimitState, Refusal, WindowStore } from '../limits/admission.ts'
import { toDemand } from '../limits/forecast.ts'
import type { Caller } from '../principals.ts'
import type { TokenPrice } from '../store/ledger.ts'
import type { Store } from '../store/store.ts'
import { type AppEnv, earlyOf } from './env.ts'

/** The OpenAI SDKs ignore or sleep through longer waits, so beyond it they are told not to retry (openai-api.md §3.5). */
const RETRY_WITHIN_MS = 61_000

const limitWords: Record<LimitName, { unit: 'request' | 'token'; span: string }> = {
  requestsPerMinute: { unit: 'request', span: 'per minute' },
  requestsPerDay: { unit: 'request', span: 'per day' },
  tokensPerMinute: { unit: 'token', span: 'per minute' },
  tokensPerDay: { unit: 'token', span: 'per day' },
  totalTokens: { unit: 'token', span: 'in total' },
}

/** `1.5s`, `2m3s`, `1h0m5s`: as OpenAI writes durations (openai-api.md §4.1); milliseconds are rounded up. */
export const toDuration = (ms: number): string => {
  const whole = Math.max(0, Math.ceil(ms))
  if (whole < 1000) return `${whole}ms`
  const hours = Math.floor(whole / 3_600_000)
  const minutes = Math.floor((whole % 3_600_000) / 60_000)
  const seconds = `${(whole % 60_000) / 1000}s`
  if (hours > 0) return `${hours}h${minutes}m${seconds}`
  return minutes > 0 ? `${minutes}m${seconds}` : seconds
}

const count = (amount: number, unit: string) => `${amount} ${unit}${amount === 1 ? '' : 's'}`

const whenToReturn = ({ retryAfterMs, quotaFilled }: Refusal): string => {
  if (retryAfterMs !== null) return `Please try again in ${toDuration(retryAfterMs)}.`
  return quotaFilled
    ? 'The total is used up; waiting does not help.'
    : 'This request can never fit, so waiting does not help.'
}

/** A Refusal in OpenAI's words: which limit, its size, what is used, what this needed, and when to come back. */
export const toLimitFault = (refusal: Refusal): Fault => {
  const { limit, size, used, reserved, needed, retryAfterMs, quotaFilled } = refusal
  const { unit, span } = limitWords[limit]
  const inFlight = reserved > 0 ? `, reserved by requests in flight ${reserved}` : ''
  const message = `Limit of ${count(size, unit)} ${span} reached: used ${used}${inFlight}, this request needs ${needed}. ${whenToReturn(refusal)}`
  const headers: Record<string, string> = {}
  if (retryAfterMs !== null) {
    headers['retry-after'] = String(Math.ceil(retryAfterMs / 1000))
    headers['retry-after-ms'] = String(retryAfterMs)
  }
  if (retryAfterMs === null || retryAfterMs > RETRY_WITHIN_MS) headers['x-should-retry'] = 'false'
  if (quotaFilled) return { kind: 'insufficient_quota', message, headers }
  return { kind: unit === 'request' ? 'request_limit' : 'token_limit', message, headers }
}

type Windows = Record<LimitName, LimitState>

/** Whether it is tokens that are lacking, and so the body that decides. */
export const isOfTokens = ({ limit }: Refusal): boolean => limitWords[limit].unit === 'token'

/** The share of a limit that is left: nothing of 0. */
const shareLeft = ({ limit, used, reserved }: LimitState): number =>
  limit === null || limit === 0 ? 0 : (limit - used - reserved) / limit

/** Of a minute and a day window the one with the smaller remaining share; either where both are unlimited. */
const tightest = (minute: LimitState, day: LimitState): LimitState => {
  if (minute.limit === null) return day
  if (day.limit === null) return minute
  return shareLeft(day) < shareLeft(minute) ? day : minute
}

/** Written out: names put together for each answer were a tenth of a refusal's CPU. */
const limitHeaderNames = {
  requests: {
    limit: 'x-ratelimit-limit-requests',
    remaining: 'x-ratelimit-remaining-requests',
    reset: 'x-ratelimit-reset-requests',
  },
  tokens: {
    limit: 'x-ratelimit-limit-tokens',
    remaining: 'x-ratelimit-remaining-tokens',
    reset: 'x-ratelimit-reset-tokens',
  },
} as const

type WriteHeader = (name: string, value: string) => void

const writeFor = (
  { limit, used, reserved, resetsAtMs }: LimitState,
  names: (typeof limitHeaderNames)['requests' | 'tokens'],
  nowMs: number,
  write: WriteHeader,
) => {
  if (limit === null) return
  write(names.limit, String(limit))
  write(names.remaining, String(Math.max(0, limit - used - reserved)))
  write(names.reset, toDuration((resetsAtMs ?? nowMs) - nowMs))
}

/** Writes `x-ratelimit-*` as OpenAI names them, true at this instant; none where unlimited. */
export const writeLimitHeaders = (windows: Windows, nowMs: number, write: WriteHeader) => {
  const requests = tightest(windows.requestsPerMinute, windows.requestsPerDay)
  const tokens = tightest(windows.tokensPerMinute, windows.tokensPerDay)
  writeFor(requests, limitHeaderNames.requests, nowMs, write)
  writeFor(tokens, limitHeaderNames.tokens, nowMs, write)
}

/**
 * The user's total by the ledger, where the windows don't hold it already. Asked for without a limit on it too: the
 * windows keep what they are given, and the limit may be set later.
 */
const settledTotal = async (windows: WindowStore, store: Store, user: number): Promise<number> =>
  windows.needsTotal(user) ? store.settledTotal(user) : 0

export type LimitDeps = {
  windows: WindowStore
  store: Store
  /** Callers whose next request the door looks at; see early.ts. */
  refusedLately: WeakSet<Caller>
  steady: () => number
  modelId: (model: string) => Promise<number>
  priceOf: (model: string) => TokenPrice
}

/**
 * One atomic step over all five limits, before any work is sent to Ollama. What the route does not hand over to the
 * relay is returned when the route ends: a malformed image or a missing model costs nothing, not even a request.
 */
export const limit = ({
  windows,
  store,
  refusedLately,
  steady,
  modelId,
  priceOf,
}: LimitDeps): MiddlewareHandler<AppEnv> =>
  async function admit(c, next) {
    const caller = c.get('caller')
    const { account, keyId } = caller
    const { forecast, model } = c.get('ask')
    const user = account.userNumber
    const total = await settledTotal(windows, store, user)
    const at = steady()
    const demand = toDemand(forecast, account.limits)
    const decision = windows.admit(user, account.limits, demand, total, at)
    const state = windows.view(user, account.limits, total, at)
    writeLimitHeaders(state, at, (name, value) => c.header(name, value))
    if (!decision.admitted) {
      refusedLately.add(caller)
      const { kind, message, headers } = toLimitFault(decision)
      throw new ApiError(kind, message, { headers })
    }
    if (earlyOf(c) !== undefined) refusedLately.delete(caller)
    const { hold } = decision
    let taken = false
    try {
      const arrivedSteadyMs = c.get('arrivedSteadyMs')
      const ticket = {
        id: c.get('id'),
        userNumber: user,
        userId: account.userId,
        keyId,
        modelId: await modelId(model),
        price: priceOf(model),
        limits: () => account.limits,
        hold,
        promptPromised: demand.prompt,
        arrivedMs: c.get('arrivedMs'),
        arrivedSteadyMs,
        admittedAfterMs: Math.round(at - arrivedSteadyMs),
        taken: false,
      }
      c.set('ticket', ticket)
      await next()
      taken = ticket.taken
    } finally {
      if (!taken) windows.withdraw(hold)
    }
  }
