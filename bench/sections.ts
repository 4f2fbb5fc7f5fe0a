/** The tables: for each load its title and its columns, and how each figure comes from a result. */
import type { LoadResult } from './load.ts'
import type { LoadName } from './loads.ts'

/** What a load's result tells of the streams, and what went on beside them where something did. */
export type Result = LoadResult & {
  /** Disturbing requests that were answered, and the median of their times. */
  disturbance?: { answered: number; ms: number }
  /** Clients that had a stream open and hardly read it. */
  slowClients?: number
}

type Figure = (result: Result) => number | undefined
export type Column = {
  title: string
  figure: Figure
  digits?: number
  /**
   * Beside the figure, how many times bare's of the same round it is, what it adds to the direct one, or to the row
   * in which nothing else went on.
   */
  beside?: 'times bare' | 'over direct' | 'over nothing'
}

const BYTES_PER_MB = 1024 * 1024
const cpuPerRequest: Figure = ({ serverCpuUs, right }) =>
  serverCpuUs === undefined ? undefined : serverCpuUs / right
const cpuPerToken: Figure = ({ serverCpuUs, tokens }) =>
  serverCpuUs === undefined ? undefined : serverCpuUs / tokens
const perStream: Figure = ({ residentBefore, residentMax, openMax }) =>
  residentBefore === undefined || residentMax === undefined
    ? undefined
    : (residentMax - residentBefore) / 1024 / openMax
const percent = (share: number | undefined) => (share === undefined ? undefined : share * 100)

const busy: Column[] = [
  { title: 'server %', figure: result => percent(result.serverBusy) },
  { title: 'generator %', figure: result => percent(result.generatorBusy) },
  { title: 'upstream %', figure: result => percent(result.upstreamBusy) },
]
const requestCpu: Column = { title: 'CPU µs/request', figure: cpuPerRequest, digits: 1, beside: 'times bare' }
const tokenCpu: Column = { title: 'CPU µs/token', figure: cpuPerToken, digits: 2, beside: 'times bare' }
const delays: Column[] = [
  { title: 'token delay p50 ms', figure: result => result.delay.p50, digits: 2, beside: 'over direct' },
  { title: 'p99 ms', figure: result => result.delay.p99, digits: 2, beside: 'over direct' },
]

const disturbed: Column[] = [
  { title: 'token delay p50 ms', figure: result => result.delay.p50, digits: 2, beside: 'over nothing' },
  { title: 'p99 ms', figure: result => result.delay.p99, digits: 2, beside: 'over nothing' },
  { title: 'max ms', figure: result => result.delay.max, digits: 1 },
  { title: 'wrong', figure: result => result.wrong },
]
const megabytes = (bytes: number | undefined) => (bytes === undefined ? undefined : bytes / BYTES_PER_MB)
/** It is looked at now and then, and may have been the most at the very beginning. */
const residentMost: Figure = ({ residentBefore, residentMax }) =>
  residentBefore === undefined ? residentMax : Math.max(residentBefore, residentMax ?? 0)
const perSlowClient: Figure = result => {
  const { residentBefore, slowClients } = result
  const most = residentMost(result)
  return residentBefore === undefined || most === undefined || slowClients === undefined
    ? undefined
    : (most - residentBefore) / 1024 / slowClients
}

type Section = { title: string; columns: Column[]; saturates: boolean }

export const sections: Record<Exclude<LoadName, 'memory' | 'start'>, Section> = {
  plain64: {
    title: 'Plain completions of 20 tokens, 64 connections',
    saturates: true,
    columns: [
      { title: 'requests/s', figure: result => result.requestsPerSecond, beside: 'times bare' },
      requestCpu,
      { title: 'p50 ms', figure: result => result.latency.p50, digits: 2 },
      { title: 'p99 ms', figure: result => result.latency.p99, digits: 2 },
      ...busy,
    ],
  },
  stream64: {
    title: 'Streams of 100 tokens as fast as they go, 64 connections',
    saturates: true,
    columns: [
      { title: 'tokens/s', figure: result => result.tokensPerSecond, beside: 'times bare' },
      tokenCpu,
      ...busy,
    ],
  },
  paced512: {
    title: '512 streams, a token each 30 ms',
    saturates: false,
    columns: [tokenCpu, ...delays, { title: 'KB/stream', figure: perStream, digits: 1 }, ...busy],
  },
  first1: {
    title: 'First token, one stream after another',
    saturates: false,
    columns: [
      {
        title: 'first token p50 ms',
        figure: result => result.firstToken.p50,
        digits: 3,
        beside: 'over direct',
      },
      { title: 'p99 ms', figure: result => result.firstToken.p99, digits: 3, beside: 'over direct' },
      requestCpu,
    ],
  },
  refused: {
    title: 'Refused requests, 64 connections (bare: the same request, answered)',
    saturates: true,
    columns: [
      { title: 'requests/s', figure: result => result.requestsPerSecond, beside: 'times bare' },
      requestCpu,
      ...busy,
    ],
  },
  open5000: {
    title: '5,000 open streams, 5 tokens a second each',
    saturates: false,
    columns: [
      { title: 'wrong', figure: result => result.wrong },
      { title: 'open', figure: result => result.openMax },
      { title: 'KB/stream', figure: perStream, digits: 1 },
      {
        title: 'peak MB',
        figure: result => megabytes(result.residentMax),
      },
      { title: 'token delay p50 ms', figure: result => result.delay.p50, digits: 2 },
      { title: 'p99 ms', figure: result => result.delay.p99, digits: 2 },
      tokenCpu,
      ...busy,
    ],
  },
  fair: {
    title:
      '512 streams, a token each 30 ms, while something large is asked (bar: p99 less than 10 ms over "nothing")',
    saturates: false,
    columns: [
      ...disturbed,
      { title: 'asked', figure: result => result.disturbance?.answered },
      { title: 'took ms', figure: result => result.disturbance?.ms },
      ...busy,
    ],
  },
  slow: {
    title: '64 streams, a token each 30 ms, beside 1,000 clients that read a byte a second of a stream each',
    saturates: false,
    columns: [
      ...disturbed,
      { title: 'MB before', figure: result => megabytes(result.residentBefore) },
      { title: 'MB at most', figure: result => megabytes(residentMost(result)) },
      { title: 'KB/slow client', figure: perSlowClient, digits: 1 },
      ...busy,
    ],
  },
}
