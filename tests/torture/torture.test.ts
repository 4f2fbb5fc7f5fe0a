/** The torture, short; `bun run torture` takes it as long as you like. And its own judgement, on made-up evidence. */
import { describe, expect, test } from 'bun:test'
import type { LogEntry } from '../../src/simulator/journal.ts'
import { fullestWindow } from '../../torture/check-limits.ts'
import { checkRequests, type Evidence } from '../../torture/check-requests.ts'
import type { Seen } from '../../torture/client.ts'
import type { Row } from '../../torture/ledger.ts'
import { createPlan } from '../../torture/plan.ts'
import { runTorture } from '../../torture/run.ts'
import { createScorecard, toText } from '../../torture/scorecard.ts'
import { countWords } from '../../torture/sse.ts'

const KILLS = 20

test(
  'no hole in the bill after twenty kills under load, with Ollama dying in every way',
  async () => {
    const result = await runTorture({ seconds: 80, kills: KILLS, clients: 24, seed: 20_261_123 })
    if (result.holes > 0) console.error(toText(result.lines))
    expect(result.holes).toBe(0)
    expect(result.kills).toBeGreaterThanOrEqual(KILLS)
    // What was not seen was not shown.
    expect(result.lines.filter(({ looked }) => looked === 0)).toEqual([])
    expect(result.outcomes['completed/measured']).toBeGreaterThan(20)
    expect(result.outcomes['recovered/recovered']).toBeGreaterThan(20)
    expect(result.outcomes['cancelled/counted']).toBeGreaterThan(5)
    expect(result.outcomes['failed/counted']).toBeGreaterThan(5)
  },
  { timeout: 150_000 },
)

describe('the judgement', () => {
  const START_MS = 1_795_420_800_000
  const attempt = {
    ...createPlan(1, 0, { userId: 'free-0', apiKey: 'k' })(),
    tag: 'c0a1',
    dialect: 'chat' as const,
    model: 'steady',
    stream: true,
    choices: 1,
    withTool: false,
  }
  const entry: LogEntry = {
    seq: 1,
    path: '/api/chat',
    model: 'steady',
    stream: true,
    requestTag: 'c0a1',
    promptTokens: 30,
    generated: 100,
    delivered: 99,
    completionTokens: 100,
    ended: 'done',
    hungUp: false,
    startedAt: START_MS + 5,
    endedAt: START_MS + 900,
  }
  const row: Row = {
    id: START_MS * 1024,
    userId: 'free-0',
    userNumber: 1,
    model: 'steady',
    kind: 'chat',
    outcome: 'completed',
    basis: 'measured',
    prompt: 30,
    completion: 100,
    cost: 0n,
    startedMs: START_MS,
    admittedMs: START_MS + 1,
    endedMs: START_MS + 901,
    gpuUs: 0n,
    preview: '[[tag:c0a1]] [[tokens:99]]',
    requestId: 'req_1',
    completionId: 'chatcmpl-1',
  }
  const seen: Seen = {
    attempt,
    startedMs: START_MS - 3,
    endedMs: START_MS + 910,
    end: 'whole',
    status: 200,
    code: undefined,
    retryAfterMs: undefined,
    shouldRetry: undefined,
    requestId: 'req_1',
    ids: new Set(['chatcmpl-1']),
    tokens: 99,
    reads: Array.from({ length: 99 }, (_, index) => ({ atMs: START_MS + 10 + index * 8, tokens: 1 })),
    usage: { prompt: 30, completion: 100 },
    faults: [],
  }
  const killed = [{ fromMs: START_MS + 800, toMs: START_MS + 1100 }]
  const judge = (evidence: Partial<Evidence>) => {
    const scorecard = createScorecard()
    const sound = {
      seen: [seen],
      log: [entry],
      rows: [row],
      prices: new Map(),
      outages: [],
      died: new Set<LogEntry>(),
    }
    checkRequests({ ...sound, ...evidence }, scorecard)
    return scorecard.lines().flatMap(({ title, holes }) => (holes > 0 ? [title] : []))
  }

  test('finds nothing in a sound bill', () => expect(judge({})).toEqual([]))

  test('finds a request without a row', () =>
    expect(judge({ rows: [] })).toContain('every request that Ollama received has a row'))

  test('finds a request that is billed twice', () =>
    expect(judge({ rows: [row, { ...row, id: row.id + 1 }] })).toContain('no request has two rows'))

  test('finds a run that was sent to Ollama twice', () =>
    expect(judge({ log: [entry, { ...entry, seq: 2 }] })).toContain('no run was sent to Ollama twice'))

  test('finds a measured row that is one token off', () => {
    const title = 'measured rows are exactly what Ollama reported'
    expect(judge({ rows: [{ ...row, completion: 99 }] })).toContain(title)
    expect(judge({ rows: [{ ...row, prompt: 31 }] })).toContain(title)
  })

  test('finds an answer that was read to its end and lost in a kill', () =>
    expect(
      judge({
        rows: [{ ...row, outcome: 'recovered', basis: 'recovered', completion: 90 }],
        outages: killed,
      }),
    ).toEqual([
      'recovered rows are requests that a kill cut off',
      'every answer read to its end has a completed row with the usage that was read',
    ]))

  test('finds a recovered row that lost more than a checkpoint', () => {
    const cut: Partial<Evidence> = { seen: [{ ...seen, end: 'cut' }], outages: killed }
    const recovered = { ...row, outcome: 'recovered', basis: 'recovered' } as const
    expect(judge({ ...cut, rows: [{ ...recovered, completion: 60 }] })).toEqual([])
    expect(judge({ ...cut, rows: [{ ...recovered, completion: 40 }] })).toEqual([
      'recovered rows within their bounds',
    ])
  })

  test('finds a cancelled row that hides what was delivered, or bills more than was made', () => {
    const left: Partial<Evidence> = { seen: [{ ...seen, end: 'left' }] }
    const cancelled = { ...row, outcome: 'cancelled', basis: 'counted' } as const
    expect(judge({ ...left, rows: [{ ...cancelled, completion: 99 }] })).toEqual([])
    for (const completion of [0, 80, 120])
      expect(judge({ ...left, rows: [{ ...cancelled, completion }] })).toEqual([
        'cancelled rows within their bounds',
      ])
  })

  test('finds a connection that broke while the proxy lived', () =>
    expect(judge({ seen: [{ ...seen, end: 'cut' }] })).toEqual([
      'connections break only when the proxy is killed',
    ]))

  test('finds a cost at another price than that of the start', () => {
    const price = { input: 2n, output: 3n, askedMs: START_MS - 100, doneMs: START_MS - 90 }
    const later = { input: 4n, output: 3n, askedMs: START_MS + 500, doneMs: START_MS + 510 }
    const prices = new Map([['steady', [price, later]]])
    expect(judge({ prices, rows: [{ ...row, cost: 360n }] })).toEqual([])
    expect(judge({ prices, rows: [{ ...row, cost: 420n }] })).toEqual([
      'costs are exact, at the price of the start',
    ])
  })

  test('finds the fullest window wherever it begins', () => {
    const events = [0, 10, 59, 60, 61].map(second => ({ atMs: second * 1000, amount: 1 }))
    expect(fullestWindow(events, 60_000)).toBe(4)
  })

  test('counts the words of the simulated models', () =>
    expect(countWords(' a river, "aloud".\n Café –')).toBe(8))

  test('the same seed plans the same attempts', () => {
    const [one, other] = [createPlan(7, 3, attempt), createPlan(7, 3, attempt)]
    for (let count = 0; count < 50; count++) expect(one()).toEqual(other())
  })
})
