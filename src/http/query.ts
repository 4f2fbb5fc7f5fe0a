/**
 * Query strings of our own API, checked by zod: times, ranges, paging. Every fault is a 400 that names its parameter,
 * also a parameter that an endpoint doesn't know: a mistyped `from` must not become a bill of all time.
 */
import { zValidator } from '@hono/zod-validator'
import { z } from 'zod'
import { ApiError, invalid } from '../errors.ts'
import { ReportFault } from '../store/report-parts.ts'
import { toInvalidRequest } from '../wire/invalid-request.ts'

/** Middleware that puts the checked query on the request: `c.req.valid('query')`. */
export const query = <Schema extends z.ZodType>(schema: Schema) =>
  zValidator('query', schema, result => {
    if (!result.success) throw toInvalidRequest(result.error as z.core.$ZodError, result.data)
  })

/** The end of all ids (see ids.ts); later instants mean "for ever". */
const END_MS = 2 ** 43

const ISO_TIME =
  /^(\d{4}-\d\d-\d\d)(?:T(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,9})?)?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)?)?$/
const isoDate = z.iso.date()

/**
 * ISO 8601, a day or a day and a time, in epoch milliseconds; UTC where no offset is given, as in all our answers.
 * Undefined for anything else, days that no calendar has included.
 */
export const parseInstant = (text: string): number | undefined => {
  // A plus sign that was not percent-encoded arrives as a space.
  const time = text.replace(/ (?=\d\d:\d\d$)/, '+')
  const [, day, offset] = ISO_TIME.exec(time) ?? []
  if (day === undefined || !isoDate.safeParse(day).success) return undefined
  // JavaScript reads a day as UTC, but a time without an offset in the machine's own zone.
  return Date.parse(time === day || offset !== undefined ? time : `${time}Z`)
}

/** ISO 8601 in UTC with milliseconds. */
export const toIso = (ms: number): string => new Date(ms).toISOString()
export const toIsoOrNull = (ms: number | null): string | null => (ms === null ? null : toIso(ms))

export const instant = z.string().transform((text, context) => {
  const ms = parseInstant(text)
  if (ms !== undefined) return Math.min(Math.max(ms, 0), END_MS)
  context.addIssue({ code: 'custom', message: 'expected an ISO 8601 time such as 2026-11-23T08:15:48Z' })
  return z.NEVER
})

export const rangeFields = { from: instant.exactOptional(), to: instant.exactOptional() }

type Bounds = { from?: number; to?: number }

/** For `refine`: half-open ranges that end after they begin. */
export const inOrder = ({ from, to }: Bounds): boolean => from === undefined || to === undefined || from < to
export const outOfOrder = { path: ['to'], message: "it must be later than 'from'" }

export const toRange = ({ from, to }: Bounds) => ({
  ...(from === undefined ? {} : { fromMs: from }),
  ...(to === undefined ? {} : { toMs: to }),
})

/** How many objects a page of a list holds. */
export const pageSize = z
  .string()
  .refine(
    text => /^\d{1,3}$/.test(text) && Number(text) >= 1 && Number(text) <= 100,
    'expected a whole number from 1 to 100',
  )
  .transform(Number)
  .default(20)

/** A list's cursor: `parse` returns undefined for what no page of this list can have given out. */
export const cursor = <Cursor>(parse: (text: string) => Cursor | undefined) =>
  z.string().transform((text, context) => {
    const value = parse(text)
    if (value !== undefined) return value
    context.addIssue({ code: 'custom', message: "expected the 'last_id' of the page before" })
    return z.NEVER
  })

/**
 * A page of a list. `rows` are one more than the page holds, where there are more: that one is not shown, and tells
 * that another page follows.
 */
export const toList = <Row, Shown>(
  rows: readonly Row[],
  { limit, idOf, show }: { limit: number; idOf: (row: Row) => string; show: (row: Row) => Shown },
) => {
  const shown = rows.slice(0, limit)
  const last = shown.at(-1)
  return {
    object: 'list',
    data: shown.map(show),
    has_more: rows.length > limit,
    last_id: last === undefined ? null : idOf(last),
  }
}

/** The same body for what is missing and for what is somebody else's. */
export const notFound = () => new ApiError('not_found', 'There is no such object.')

/** What the reports answer; a question that they can't answer is the client's 400. */
export const asked = async <Answer>(answer: Promise<Answer>): Promise<Answer> => {
  try {
    return await answer
  } catch (error) {
    throw error instanceof ReportFault ? invalid(error.param, error.message) : error
  }
}
