import { expect, test } from 'bun:test'
import type { LoadResult } from '../../bench/load.ts'
import { boundByLoad, type Measurement, median, summarize, toTable } from '../../bench/report.ts'

const none = { count: 0, p50: 0, p90: 0, p99: 0, max: 0 }
const result = (given: Partial<LoadResult>): LoadResult => ({
  right: 1000,
  wrong: 0,
  faults: [],
  tokens: 20_000,
  seconds: 1,
  requestsPerSecond: 1000,
  tokensPerSecond: 20_000,
  openMax: 64,
  latency: none,
  firstToken: none,
  delay: none,
  generatorBusy: 0.2,
  upstreamBusy: 0.2,
  serverBusy: 0.9,
  serverCpuUs: 100_000,
  residentBefore: undefined,
  residentMax: undefined,
  residentAfter: undefined,
  ...given,
})
const plain = (
  row: string,
  round: number,
  requestsPerSecond: number,
  more: Partial<LoadResult> = {},
): Measurement => ({
  load: 'plain64',
  row,
  round,
  result: result({ requestsPerSecond, ...more }),
})

test('a ratio is the median of the ratios to bare in the same round, not the ratio of the medians', () => {
  const measurements = [
    ...[plain('bare', 1, 1000), plain('bare', 2, 100), plain('bare', 3, 500)],
    ...[plain('proxy', 1, 300), plain('proxy', 2, 50), plain('proxy', 3, 200)],
  ]
  const cell = summarize('plain64', measurements).find(({ row }) => row === 'proxy')?.cells[0]
  expect(cell).toEqual({
    title: 'requests/s',
    median: 200,
    beside: { kind: 'times bare', median: 0.4, min: 0.3, max: 0.5 },
  })
})

test('what a disturbance adds is taken against the same round of the row with nothing beside', () => {
  const fair = (row: string, round: number, p99: number): Measurement => ({
    load: 'fair',
    row,
    round,
    result: result({ delay: { ...none, p99 } }),
  })
  const measurements = [
    fair('nothing', 1, 2),
    fair('nothing', 2, 8),
    fair('export', 1, 5),
    fair('export', 2, 9),
  ]
  const [nothing, other] = summarize('fair', measurements).map(({ cells }) => cells[1])
  expect(nothing).toEqual({ title: 'p99 ms', median: 5 })
  expect(other?.beside).toEqual({ kind: 'over nothing', median: 2, min: 1, max: 3 })
})

test('what a server without a process id costs is left out, not zero', () => {
  const measurements = [plain('bare', 1, 1000), plain('other', 1, 10, { serverCpuUs: undefined })]
  expect(summarize('plain64', measurements).find(({ row }) => row === 'other')?.cells[1]).toBeUndefined()
})

test('a row that the load generator may have bounded is named, one that its server bounded is not', () => {
  const measurements = [
    plain('bare', 1, 1000, { generatorBusy: 0.6, upstreamBusy: 0.35, serverBusy: 0.7 }),
    plain('proxy', 1, 300, { generatorBusy: 0.2, upstreamBusy: 0.1, serverBusy: 0.99 }),
  ]
  expect(boundByLoad('plain64', measurements)).toEqual(['bare'])
})

test('the median of an even number lies between the middle two', () => {
  expect(median([4, 1, 3, 2])).toBe(2.5)
  expect(median([5])).toBe(5)
})

test('a table is Markdown with straight columns', () => {
  expect(
    toTable(
      ['', 'ms'],
      [
        ['bare', '1'],
        ['proxy', '22'],
      ],
    ),
  ).toBe('|       | ms |\n| ----- | -- |\n| bare  | 1  |\n| proxy | 22 |')
})
