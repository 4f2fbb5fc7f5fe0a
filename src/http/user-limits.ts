/** A user's five limits as our API writes them, and how they stand. */
import { z } from 'zod'
import type { LimitName, Limits, WindowStore } from '../limits/admission.ts'
import type { Store } from '../store/store.ts'
import { toIso } from './query.ts'

const names = {
  requests_per_minute: 'requestsPerMinute',
  requests_per_day: 'requestsPerDay',
  tokens_per_minute: 'tokensPerMinute',
  tokens_per_day: 'tokensPerDay',
  total_token_limit: 'totalTokens',
} as const satisfies Record<string, LimitName>
type FieldName = keyof typeof names
const entries = Object.entries(names) as [FieldName, LimitName][]
export const limitFieldNames = Object.keys(names) as FieldName[]

const amount = z.int().min(0).nullable().exactOptional()

/** Any of the five: absent says nothing, null is unlimited, 0 is nothing. */
export const limitFields = z.strictObject({
  requests_per_minute: amount,
  requests_per_day: amount,
  tokens_per_minute: amount,
  tokens_per_day: amount,
  total_token_limit: amount,
})

export const toLimits = (fields: z.output<typeof limitFields>): Partial<Limits> => {
  const limits: Partial<Limits> = {}
  for (const [field, name] of entries) {
    const value = fields[field]
    if (value !== undefined) limits[name] = value
  }
  return limits
}

const mapFields = <Value>(of: (name: LimitName) => Value) =>
  Object.fromEntries(entries.map(([field, name]) => [field, of(name)])) as Record<FieldName, Value>

export const toLimitsBody = (userId: string, limits: Limits) => ({
  user_id: userId,
  ...mapFields(name => limits[name]),
})

export type LimitsDeps = { store: Store; windows: WindowStore; now: () => number; steady: () => number }

/**
 * The limits with `current`: what is used (without what requests in flight have reserved), what is reserved, and when
 * the window would be empty if nothing more came: for an empty one that is now, for the total never (null).
 */
export const createLimitsView =
  ({ store, windows, now, steady }: LimitsDeps) =>
  async ({ userId, userNumber, limits }: { userId: string; userNumber: number; limits: Limits }) => {
    const total = windows.needsTotal(userNumber) ? await store.settledTotal(userNumber) : 0
    const at = steady()
    const states = windows.view(userNumber, limits, total, at)
    const wall = now()
    return {
      ...toLimitsBody(userId, limits),
      current: mapFields(name => {
        const { used, reserved, limit, resetsAtMs } = states[name]
        const resets_at = resetsAtMs === null ? null : toIso(Math.ceil(wall + Math.max(0, resetsAtMs - at)))
        return { used, reserved, limit, resets_at }
      }),
    }
  }
