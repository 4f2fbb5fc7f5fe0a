/**
 * Identifiers. A request's number is its start in epoch milliseconds × 1024 + a sequence: time index, cursor and
 * public id at once. Below 2^53 until the year 2248.
 */
import type { Kind } from './store/ledger.ts'

const SEQUENCE = 1024
/** One width, so that the text of a later request sorts after that of an earlier one. */
const DIGITS = 20

const prefixes: Record<Kind, string> = { chat: 'chatcmpl-', completion: 'cmpl-', embedding: 'embd-' }

const toText = (prefix: string, id: number) => prefix + id.toString(36).padStart(DIGITS, '0')

/** The id a client sees on an answer: `chatcmpl-…`, `cmpl-…` or `embd-…`. */
export const toCompletionId = (kind: Kind, id: number): string => toText(prefixes[kind], id)

/** The `x-request-id` of the same request. */
export const toRequestId = (id: number): string => toText('req_', id)

/** The number in a completion id, of any kind; undefined for anything we could not have made. */
export const parseCompletionId = (text: string): number | undefined => {
  const prefix = Object.values(prefixes).find(known => text.startsWith(known))
  if (prefix === undefined) return undefined
  const digits = text.slice(prefix.length)
  if (!/^[0-9a-z]{20}$/.test(digits)) return undefined
  const id = Number.parseInt(digits, 36)
  return Number.isSafeInteger(id) ? id : undefined
}

/** A key's public id. */
export const toKeyId = (id: number): string => `key_${id}`

export const parseKeyId = (text: string): number | undefined => {
  const digits = /^key_([1-9][0-9]{0,14})$/.exec(text)?.[1]
  return digits === undefined ? undefined : Number(digits)
}

/** When the request of this number began, in epoch milliseconds. */
export const startedMs = (id: number): number => Math.floor(id / SEQUENCE)

/** The first number that a request beginning at this instant can have: the bound of a time range over ids. */
export const firstIdAt = (ms: number): number => ms * SEQUENCE

/**
 * Numbers for requests, each larger than the one before, also when the clock steps back or gives more than 1024 in a
 * millisecond. `last` is the largest number ever used (see `lastId`), or 0.
 */
export const createIds = ({ now, last }: { now: () => number; last: number }): { next: () => number } => {
  let latest = last
  return {
    next() {
      latest = Math.max(latest + 1, firstIdAt(now()))
      return latest
    },
  }
}
