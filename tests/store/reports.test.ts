import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { parseCompletionId, startedMs, toCompletionId, toKeyId } from '../../src/ids.ts'
import { toAmount } from '../../src/pricing.ts'
import { createTextReports } from '../../src/runtime/text-reports.ts'
import { type BucketPage, type BucketWidth, type Grouping, groupings } from '../../src/store/buckets.ts'
import { WALKED_MAX } from '../../src/store/history.ts'
import type { Batch, Closing } from '../../src/store/ledger.ts'
import { ReportFault } from '../../src/store/report-parts.ts'
import { retire } from '../../src/store/retention.ts'
import { batch, closing, DAY, HOUR, idAt, newKey, openMemory, T0, unlimited } from './support.ts'

const MINUTE = 60_000
const SPAN = 4 * DAY
const modelNames = ['llama3', '__proto__', 'qwen3:1b']

const openReports = async () => {
  const database = openMemory()
  for (const name of modelNames) await database.store.modelId(name)
  return { ...database, reports: createTextReports(database.db) }
}

/** Instants that like the edges of hours and days. */
const instant = fc.oneof(
  fc.integer({ min: 0, max: SPAN }),
  fc.integer({ min: 0, max: SPAN / HOUR }).map(hour => hour * HOUR),
  fc.integer({ min: 0, max: SPAN / DAY }).map(day => day * DAY),
  fc.integer({ min: 1, max: SPAN / HOUR }).map(hour => hour * HOUR - 1),
)

const request = fc.record({
  startMs: instant,
  userNumber: fc.integer({ min: 1, max: 3 }),
  keyId: fc.integer({ min: 1, max: 2 }),
  modelId: fc.integer({ min: 1, max: modelNames.length }),
  outcome: fc.constantFrom('completed' as const, 'cancelled' as const),
  promptTokens: fc.integer({ min: 0, max: 100_000 }),
  completionTokens: fc.integer({ min: 0, max: 100_000 }),
  // Up to the most expensive there is, so that sums of money leave the safe integers.
  input: fc.integer({ min: 0, max: 1_000_000_000_000 }),
  evalUs: fc.integer({ min: 0, max: 1e9 }),
})
const requests = fc.array(request, { minLength: 1, maxLength: 40 })

const toRows = (drawn: (typeof request extends fc.Arbitrary<infer R> ? R : never)[]): Closing[] =>
  drawn.map(({ startMs, input, ...row }, i) =>
    closing({ ...row, id: idAt(T0 + startMs, i), price: { input, output: 1 }, durationMs: 0 }),
  )

/** In several groups, so that sums are added to as well as made. */
const inGroups = (rows: Closing[], commit: (group: Batch) => void) => {
  for (let i = 0; i < rows.length; i += 3) commit(batch({ close: rows.slice(i, i + 3) }))
}

/** The five numbers by the plainest arithmetic there is. */
const oracle = (rows: Closing[]) => {
  let pico = 0n
  let prompt = 0
  let completion = 0
  for (const row of rows) {
    pico +=
      BigInt(row.promptTokens) * BigInt(row.price.input) +
      BigInt(row.completionTokens) * BigInt(row.price.output)
    prompt += row.promptTokens
    completion += row.completionTokens
  }
  return {
    total_tokens: prompt + completion,
    prompt_tokens: prompt,
    completion_tokens: completion,
    request_count: rows.length,
    total_cost: toAmount(pico / 1_000_000n, pico % 1_000_000n),
  }
}

const within = (rows: Closing[], fromMs: number, toMs: number) =>
  rows.filter(({ id }) => startedMs(id) >= fromMs && startedMs(id) < toMs)

/** Where single rows are gone a range must be whole hours, so the tests ask for such. */
const wholeHour = (ms: number, archivedUntil: number) =>
  ms < archivedUntil ? Math.floor(ms / HOUR) * HOUR : ms

describe('usage of a user', () => {
  test('is the sum of its rows, over all time and in any range, with rows archived or not', async () => {
    await fc.assert(
      fc.asyncProperty(requests, instant, instant, fc.option(instant), async (drawn, a, b, archiveMs) => {
        const { reports, db, sqlite, commit } = await openReports()
        const rows = toRows(drawn)
        inGroups(rows, commit)
        if (archiveMs !== null) while (retire(db, T0 + archiveMs, 3) > 0);
        const until = T0 + (archiveMs ?? 0)
        const fromMs = wholeHour(T0 + Math.min(a, b), until)
        const toMs = wholeHour(T0 + Math.max(a, b), until)
        for (const userNumber of [1, 2, 3]) {
          const mine = rows.filter(row => row.userNumber === userNumber)
          for (const [bounds, wanted] of [
            [{}, mine],
            [{ fromMs, toMs }, within(mine, fromMs, toMs)],
            [{ fromMs }, within(mine, fromMs, Number.POSITIVE_INFINITY)],
            [{ toMs }, within(mine, 0, toMs)],
          ] as const) {
            const byModel = modelNames
              .map((name, i) => [name, wanted.filter(row => row.modelId === i + 1)] as const)
              .filter(([, some]) => some.length > 0)
            expect(await reports.usage(userNumber, bounds)).toEqual({
              ...oracle([...wanted]),
              by_model: Object.fromEntries(byModel.map(([name, some]) => [name, oracle(some)])),
              unpriced: byModel.map(([name]) => name).sort(),
            })
          }
        }
        const totals = await reports.totals([1, 2, 3, 99])
        for (const userNumber of [1, 2, 3, 99])
          expect(totals.get(userNumber)).toEqual(oracle(rows.filter(row => row.userNumber === userNumber)))
        sqlite.close()
      }),
      { numRuns: 60 },
    )
  })

  test('names the models without a price now, not those that have one', async () => {
    const { reports, store, commit } = await openReports()
    commit(batch({ close: [closing({ id: idAt(T0) }), closing({ id: idAt(T0, 1), modelId: 3 })] }))
    await store.putPrice('llama3', { inputPrice: 0, outputPrice: 0 }, 'admin', T0)
    expect((await reports.usage(1, {})).unpriced).toEqual(['qwen3:1b'])
  })

  test('a range that cuts an hour of rolled-up time is refused by name', async () => {
    const { reports, db, commit } = await openReports()
    const rows = [closing({ id: idAt(T0 + HOUR + 5) }), closing({ id: idAt(T0 + 3 * HOUR + 5) })]
    commit(batch({ close: rows }))
    retire(db, T0 + 4 * HOUR, 9)
    const param = (bounds: { fromMs?: number; toMs?: number }) =>
      reports.usage(1, bounds).then(
        () => undefined,
        error => (error instanceof ReportFault ? error.param : error),
      )
    expect(await param({ fromMs: T0 + 2 * HOUR + 1 })).toBe('from')
    expect(await param({ fromMs: T0 + HOUR, toMs: T0 + 2 * HOUR + 1 })).toBe('to')
    // Outside of it any instant will do.
    expect(await param({ fromMs: T0 + 1, toMs: T0 + 4 * HOUR + 1 })).toBeUndefined()
    expect(await param({ fromMs: T0 + 2 * HOUR, toMs: T0 + 3 * HOUR })).toBeUndefined()
  })
})

describe('buckets', () => {
  const allPages = async (
    read: (page: string | undefined) => Promise<string>,
  ): Promise<{ data: BucketPage['data']; pages: number }> => {
    const data: BucketPage['data'] = []
    let page: string | undefined
    for (let pages = 1; ; pages++) {
      const answer: BucketPage = JSON.parse(await read(page))
      data.push(...answer.data)
      if (answer.has_more !== (answer.next_page !== null)) throw new Error('has_more and next_page disagree')
      if (answer.next_page === null) return { data, pages }
      page = answer.next_page
    }
  }

  test('of any width and grouping add up to the rows, cell by cell, with rows archived or not', async () => {
    const width = fc.constantFrom<BucketWidth>('1m', '1h', '1d')
    await fc.assert(
      fc.asyncProperty(
        requests,
        instant,
        instant,
        width,
        fc.subarray([...groupings]),
        fc.option(instant),
        async (drawn, a, b, width, groupBy, archiveMs) => {
          const { reports, db, sqlite, commit } = await openReports()
          const rows = toRows(drawn)
          inGroups(rows, commit)
          const archived = width !== '1m' && archiveMs !== null
          if (archived) while (retire(db, T0 + archiveMs, 3) > 0);
          const until = archived ? T0 + archiveMs : 0
          const fromMs = wholeHour(T0 + Math.min(a, b), until)
          const toMs = Math.max(fromMs + HOUR, wholeHour(T0 + Math.max(a, b), until))
          const { data } = await allPages(page =>
            reports.buckets({ fromMs, toMs, width, groupBy, ...(page === undefined ? {} : { page }) }),
          )
          // No hole, no overlap.
          expect(data[0]?.start_time).toBe(new Date(fromMs).toISOString())
          expect(data.at(-1)?.end_time).toBe(new Date(toMs).toISOString())
          for (const [i, bucket] of data.entries())
            if (i > 0) expect(bucket.start_time).toBe(data[i - 1]?.end_time as string)
          for (const bucket of data) {
            const inside = within(rows, Date.parse(bucket.start_time), Date.parse(bucket.end_time))
            const cells = Map.groupBy(inside, row => keyOf(row, groupBy))
            expect(bucket.results).toHaveLength(cells.size)
            for (const result of bucket.results) {
              const { user_id, model, api_key_id, gpu_seconds, ...totals } = result
              const cell = cells.get([user_id, model, api_key_id].join()) ?? []
              expect(totals).toEqual(oracle(cell))
              expect(gpu_seconds).toBe(cell.reduce((sum, row) => sum + row.evalUs, 0) / 1e6)
            }
          }
          sqlite.close()
        },
      ),
      { numRuns: 60 },
    )
  })

  const keyOf = (row: Closing, groupBy: Grouping[]) =>
    [
      groupBy.includes('user_id') ? `deleted-${row.userNumber}` : undefined,
      groupBy.includes('model') ? modelNames[row.modelId - 1] : undefined,
      groupBy.includes('api_key_id') ? toKeyId(row.keyId) : undefined,
    ].join()

  test('come in pages of a stated size', async () => {
    const { reports } = await openReports()
    const range = { fromMs: T0 + 1, toMs: T0 + 40 * DAY, groupBy: [] }
    const first: BucketPage = JSON.parse(await reports.buckets({ ...range, width: '1d' }))
    expect(first.data).toHaveLength(31)
    expect(first.next_page).toBe(String(T0 + 31 * DAY))
    expect(JSON.parse(await reports.buckets({ ...range, width: '1h' })).data).toHaveLength(168)
    expect(JSON.parse(await reports.buckets({ ...range, width: '1m' })).data).toHaveLength(1440)
  })

  test.each(['', 'x', '-1', '1.5', String(T0), String(T0 + HOUR + 1), String(T0 + 9 * DAY)])(
    'a page token we never gave, %p, is refused',
    async page => {
      const { reports } = await openReports()
      const asked = reports.buckets({ fromMs: T0, toMs: T0 + 9 * DAY, width: '1h', groupBy: [], page })
      expect(await asked.catch(error => error.param)).toBe('page')
    },
  )

  test('of a minute are refused over rolled-up time', async () => {
    const { reports, db, commit } = await openReports()
    commit(batch({ close: [closing({ id: idAt(T0 + 5) })] }))
    retire(db, T0 + HOUR, 9)
    const asked = (fromMs: number) =>
      reports.buckets({ fromMs, toMs: T0 + 2 * HOUR, width: '1m', groupBy: [] }).catch(error => error.param)
    expect(await asked(T0)).toBe('bucket_width')
    expect(await asked(T0 + HOUR)).toContain('"object":"page"')
  })

  test('show a living user by name and a deleted one by number', async () => {
    const { reports, store, commit } = await openReports()
    await store.createUser('alice', unlimited, newKey('a'), T0)
    await store.createUser('bob', unlimited, newKey('b'), T0)
    commit(batch({ close: [closing({ id: idAt(T0) }), closing({ id: idAt(T0, 1), userNumber: 2 })] }))
    await store.deleteUser('alice', T0)
    const page: BucketPage = JSON.parse(
      await reports.buckets({ fromMs: T0, toMs: T0 + MINUTE, width: '1m', groupBy: ['user_id'] }),
    )
    expect(page.data[0]?.results.map(result => result.user_id)).toEqual(['deleted-1', 'bob'])
    expect(await reports.userNumber('deleted-1')).toBe(1)
    expect(await reports.userNumber('bob')).toBe(2)
    expect(await reports.userNumber('deleted-2')).toBeUndefined()
    expect(await reports.userNumber('alice')).toBeUndefined()
  })
})

describe('history', () => {
  const after = (cursor: string | null) => {
    const id = parseCompletionId(cursor ?? '')
    return id === undefined ? {} : { after: id }
  }

  test('shows a row as it was closed', async () => {
    const { reports, store, commit } = await openReports()
    await store.createUser('alice', unlimited, newKey('a'), T0)
    const id = idAt(T0, 7)
    const row = closing({
      id,
      kind: 'embedding',
      outcome: 'cancelled',
      basis: 'counted',
      price: { input: 1_000_000, output: 0 },
    })
    commit(batch({ close: [row] }))
    expect(await reports.history(1, { limit: 20 })).toEqual({
      object: 'list',
      data: [
        {
          id: toCompletionId('embedding', id),
          request_id: expect.stringMatching(/^req_[0-9a-z]{20}$/),
          model: 'llama3',
          prompt_tokens: 10,
          completion_tokens: 5,
          total_tokens: 15,
          cost: 0.00001,
          outcome: 'cancelled',
          basis: 'counted',
          started_at: '2026-01-01T00:00:00.000Z',
          ended_at: '2026-01-01T00:00:01.000Z',
          first_token_ms: 100,
          duration_ms: 1000,
          api_key_id: 'key_1',
          prompt_preview: null,
        },
      ],
      has_more: false,
      last_id: toCompletionId('embedding', id),
    })
  })

  test('walks every row once, newest first, under any page size and filter', async () => {
    const { reports, commit } = await openReports()
    const rows = Array.from({ length: 50 }, (_, i) =>
      closing({
        id: idAt(T0 + i),
        userNumber: 1 + (i % 2),
        modelId: 1 + (i % 3),
        outcome: i % 4 === 0 ? 'failed' : 'completed',
      }),
    )
    commit(batch({ close: rows }))
    for (const limit of [1, 2, 7, 25, 100])
      for (const model of [undefined, 'qwen3:1b'])
        for (const outcome of [undefined, 'failed' as const]) {
          const wanted = rows
            .filter(row => row.userNumber === 1)
            .filter(row => model === undefined || modelNames[row.modelId - 1] === model)
            .filter(row => outcome === undefined || row.outcome === outcome)
            .map(row => toCompletionId('chat', row.id))
            .reverse()
          const seen: string[] = []
          let cursor: string | null = null
          for (;;) {
            const page = await reports.history(1, {
              limit,
              ...after(cursor),
              ...(model === undefined ? {} : { model }),
              ...(outcome === undefined ? {} : { outcome }),
            })
            seen.push(...page.data.map(row => row.id))
            cursor = page.last_id
            if (!page.has_more) break
          }
          expect(seen).toEqual(wanted)
        }
    expect((await reports.history(1, { limit: 25 })).has_more).toBe(false)
    expect(await reports.history(3, { limit: 9 })).toEqual({
      object: 'list',
      data: [],
      has_more: false,
      last_id: null,
    })
  })

  test('a filter that matches little looks at a bounded number of rows and hands back where it stopped', async () => {
    const { reports, commit } = await openReports()
    const count = WALKED_MAX * 2 + 10
    const rows = Array.from({ length: count }, (_, i) =>
      closing({ id: idAt(T0, i), outcome: i === 3 ? 'failed' : 'completed' }),
    )
    commit(batch({ close: rows }))
    const first = await reports.history(1, { limit: 20, outcome: 'failed' })
    expect(first).toEqual({
      object: 'list',
      data: [],
      has_more: true,
      last_id: toCompletionId('chat', idAt(T0, count - WALKED_MAX)),
    })
    const second = await reports.history(1, { limit: 20, outcome: 'failed', ...after(first.last_id) })
    const third = await reports.history(1, { limit: 20, outcome: 'failed', ...after(second.last_id) })
    expect(third.data.map(row => row.id)).toEqual([toCompletionId('chat', idAt(T0, 3))])
    expect(third.has_more).toBe(false)
  })

  test('ends where rows have become sums', async () => {
    const { reports, db, commit } = await openReports()
    commit(batch({ close: [closing({ id: idAt(T0) }), closing({ id: idAt(T0 + 2 * HOUR) })] }))
    expect(retire(db, T0 + HOUR, 100)).toBe(1)
    const page = await reports.history(1, { limit: 20 })
    expect(page.data).toHaveLength(1)
    expect(page.has_more).toBe(false)
  })
})

describe('an export', () => {
  const exportAll = async (
    ask: (after: number | undefined) => Promise<{ text: string; next: number | undefined }>,
  ) => {
    let text = ''
    let after: number | undefined
    for (let pages = 1; ; pages++) {
      const page = await ask(after)
      text += page.text
      if (page.next === undefined) return { text, pages }
      after = page.next
    }
  }

  test('holds every row of the range once, oldest first, over any number of pages', async () => {
    const { reports, commit } = await openReports()
    const rows = Array.from({ length: 5001 }, (_, i) =>
      closing({ id: idAt(T0 + i), modelId: 1 + (i % 2), userNumber: 1 + (i % 3) }),
    )
    commit(batch({ close: rows }))
    const ids = (text: string) =>
      text
        .trimEnd()
        .split('\n')
        .map(line => JSON.parse(line).id)
    const all = await exportAll(after => reports.exportPage({}, 'ndjson', after))
    expect(ids(all.text)).toEqual(rows.map(row => toCompletionId('chat', row.id)))
    expect(all.pages).toBe(3)
    const some = await exportAll(after =>
      reports.exportPage(
        { fromMs: T0 + 10, toMs: T0 + 4000, model: 'llama3', userNumber: 2 },
        'ndjson',
        after,
      ),
    )
    const wanted = rows.filter((row, i) => i >= 10 && i < 4000 && row.modelId === 1 && row.userNumber === 2)
    expect(ids(some.text)).toEqual(wanted.map(row => toCompletionId('chat', row.id)))
  })

  test('as CSV has one header, quotes what needs it, and runs no formula', async () => {
    const { reports, store, sqlite, commit } = await openReports()
    await store.createUser('alice', unlimited, newKey('a'), T0)
    commit(batch({ close: [closing({ id: idAt(T0) }), closing({ id: idAt(T0, 1), firstTokenMs: null })] }))
    sqlite.run('insert into prompt_previews values (?, 1, ?)', [idAt(T0), '=cmd("a",\n"b")'])
    const { text, next } = await reports.exportPage({}, 'csv', undefined)
    expect(next).toBeUndefined()
    const [id, second] = [toCompletionId('chat', idAt(T0)), toCompletionId('chat', idAt(T0, 1))]
    expect(text).toBe(
      'user_id,id,request_id,model,prompt_tokens,completion_tokens,total_tokens,cost,outcome,basis,started_at,ended_at,first_token_ms,duration_ms,api_key_id,prompt_preview\n' +
        `alice,${id},req_${id.slice(9)},llama3,10,5,15,0,completed,measured,2026-01-01T00:00:00.000Z,2026-01-01T00:00:01.000Z,100,1000,key_1,"'=cmd(""a"",\n""b"")"\n` +
        `alice,${second},req_${second.slice(9)},llama3,10,5,15,0,completed,measured,2026-01-01T00:00:00.000Z,2026-01-01T00:00:01.000Z,,1000,key_1,\n`,
    )
    const empty = await reports.exportPage({ toMs: T0 }, 'csv', undefined)
    expect(empty.text).toStartWith('user_id,id,')
    expect((await reports.exportPage({}, 'csv', idAt(T0))).text).not.toContain('user_id')
  })
})

describe('retention', () => {
  test('moves whole hours in small steps, previews included, and leaves what ended later', () => {
    const { db, sqlite, commit } = openMemory()
    const rows = [
      closing({ id: idAt(T0 + 1) }),
      closing({ id: idAt(T0 + 2), durationMs: 10 * HOUR }),
      closing({ id: idAt(T0 + 3), outcome: 'failed' }),
      closing({ id: idAt(T0 + 4) }),
      closing({ id: idAt(T0 + HOUR) }),
    ]
    commit(batch({ close: rows }))
    sqlite.run('insert into prompt_previews select id, 1, id from usage')
    expect(retire(db, T0 + HOUR - 1, 100)).toBe(0)
    expect(retire(db, T0 + HOUR + 5, 2)).toBe(2)
    expect(retire(db, T0 + HOUR + 5, 2)).toBe(1)
    expect(retire(db, T0 + HOUR + 5, 2)).toBe(0)
    const left = [[idAt(T0 + 2)], [idAt(T0 + HOUR)]]
    expect(sqlite.query('select id from usage').values()).toEqual(left)
    expect(sqlite.query('select id from prompt_previews').values()).toEqual(left)
    expect(sqlite.query('select hour, outcome, requests, prompt_tokens from usage_archive').values()).toEqual(
      [
        [T0 / HOUR, 0, 2, 20],
        [T0 / HOUR, 1, 1, 10],
      ],
    )
  })
})
