import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { parseInstant, toIso } from '../../src/http/query.ts'

const DAY = Date.UTC(2026, 10, 23)

test('times are ISO 8601, in UTC where they name no offset', () => {
  const eight = DAY + 8 * 3_600_000
  expect(parseInstant('2026-11-23')).toBe(DAY)
  for (const text of [
    '2026-11-23T08:00Z',
    '2026-11-23T08:00:00Z',
    '2026-11-23T08:00:00.000Z',
    '2026-11-23T08:00:00.000000Z',
    '2026-11-23T08:00:00',
    '2026-11-23T08:00',
    '2026-11-23T10:00:00+02:00',
    '2026-11-23T10:00:00 02:00',
    '2026-11-23T02:30:00-05:30',
  ]) {
    expect([text, parseInstant(text)]).toEqual([text, eight])
  }
})

test('what is no time is none, however much JavaScript would make of it', () => {
  for (const text of [
    '',
    '0',
    '2026',
    '2026-11',
    '20261123',
    '1795420800',
    '1795420800000',
    'Mon, 23 Nov 2026 08:00:00 GMT',
    '23.11.2026',
    '11/23/2026',
    '2026-02-29',
    '2026-02-30T00:00:00Z',
    '2026-13-01',
    '2026-11-23T24:00:00Z',
    '2026-11-23T08:60:00Z',
    '2026-11-23 08:00:00',
    '2026-11-23T08:00:00+25:00',
    ' 2026-11-23',
    '2026-11-23T08:00:00Z\n',
    '-000001-01-01',
  ]) {
    expect([text, parseInstant(text)]).toEqual([text, undefined])
  }
})

test('a time that we wrote is read as the same instant', () => {
  const years0to9999 = {
    min: new Date('0001-01-01T00:00:00Z'),
    max: new Date('9999-12-31T23:59:59.999Z'),
    noInvalidDate: true,
  }
  fc.assert(
    fc.property(fc.date(years0to9999), date => {
      expect(parseInstant(toIso(date.getTime()))).toBe(date.getTime())
    }),
  )
})
