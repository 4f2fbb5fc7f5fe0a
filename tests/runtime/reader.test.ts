import { afterAll, describe, expect, setDefaultTimeout, test } from 'bun:test'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDatabase } from '../../src/runtime/database.ts'
import { createReports } from '../../src/runtime/reader.ts'
import { createTextReports } from '../../src/runtime/text-reports.ts'
import { ReportFault } from '../../src/store/report-parts.ts'
import { createStore } from '../../src/store/store.ts'
import { batch, closing, DAY, HOUR, idAt, T0 } from '../store/support.ts'

// A Worker gives way: beside other work it may take its time.
setDefaultTimeout(60_000)

const root = mkdtempSync(join(tmpdir(), 'reader-'))
const database = openDatabase({ path: join(root, 'proxy.db'), synchronous: 'normal', nowMs: T0 })
const reports = createReports(database)
afterAll(async () => {
  await reports.close()
  database.close()
  rmSync(root, { recursive: true, force: true })
})
const store = createStore(database.db)
for (const name of ['a', 'b']) await store.modelId(name)
database.commit(
  batch({
    close: Array.from({ length: 100 }, (_, i) =>
      closing({ id: idAt(T0 + i * HOUR), modelId: 1 + (i % 2), price: { input: 1_000_000, output: 0 } }),
    ),
  }),
)

describe('reports from the Worker', () => {
  test('say the same as in process', async () => {
    const here = createTextReports(database.db)
    const range = { fromMs: T0 + 5, toMs: T0 + 3 * DAY + 5 }
    const buckets = { ...range, width: '1d', groupBy: ['model', 'user_id'] } as const
    const history = { limit: 3, outcome: 'completed', model: 'b' } as const
    expect(await reports.usage(1, range)).toEqual(await here.usage(1, range))
    expect(await reports.usage(1, {})).toEqual(await here.usage(1, {}))
    expect(await reports.history(1, history)).toEqual(await here.history(1, history))
    expect(await reports.buckets(buckets)).toBe(await here.buckets(buckets))
    for (const format of ['csv', 'ndjson'] as const)
      expect(await reports.exportPage(range, format, undefined)).toEqual(
        await here.exportPage(range, format, undefined),
      )
  })

  test('see a row as soon as it is committed', async () => {
    const range = { fromMs: T0, toMs: T0 + 200 * DAY }
    for (let i = 1; i <= 20; i++) {
      database.commit(batch({ close: [closing({ id: idAt(T0 + 100 * DAY, i), userNumber: 2 })] }))
      expect((await reports.usage(2, range)).request_count).toBe(i)
    }
  })

  test('tell a question that cannot be answered by its parameter, and go on', async () => {
    const asked = reports.buckets({ fromMs: T0, toMs: T0 + DAY, width: '1h', groupBy: [], page: 'x' })
    const fault = await asked.catch(error => error)
    expect(fault).toBeInstanceOf(ReportFault)
    expect(fault.param).toBe('page')
    expect(await reports.buckets({ fromMs: T0, toMs: T0 + DAY, width: '1h', groupBy: [] })).toContain(
      '"page"',
    )
  })

  test.if(process.platform === 'linux')(
    'come from a thread that gives way to all others, which keep their priority',
    () => {
      const nices = readdirSync('/proc/self/task').map(task => {
        const stat = readFileSync(`/proc/self/task/${task}/stat`, 'utf8')
        return { task, nice: Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16]) }
      })
      // Threads that the engine starts for the Worker inherit its place.
      expect(nices.filter(({ nice }) => nice === 19)).not.toHaveLength(0)
      expect(nices.find(({ task }) => task === String(process.pid))?.nice).toBe(0)
    },
  )

  test('a client waits for none of the sums that the admin asks for', async () => {
    const order: string[] = []
    const range = { fromMs: T0, toMs: T0 + 3 * DAY }
    const sums = Array.from({ length: 100 }, () =>
      reports.buckets({ ...range, width: '1m', groupBy: ['api_key_id'] }).then(() => order.push('sums')),
    )
    await reports.usage(1, { fromMs: T0 }).then(() => order.push('usage'))
    await Promise.all(sums)
    expect(order.at(-1)).toBe('sums')
  })

  test('fail, rather than hang, once closed', async () => {
    const other = createReports(database)
    const asked = other.buckets({ fromMs: T0, toMs: T0 + DAY, width: '1h', groupBy: [] })
    await Promise.all([asked.catch(error => expect(String(error)).toContain('closed')), other.close()])
    await expect(other.usage(1, { fromMs: T0 })).rejects.toThrow('closed')
  })
})

test('an in-memory database is read in process', async () => {
  const memory = openDatabase({ path: ':memory:', synchronous: 'normal', nowMs: T0 })
  const inProcess = createReports(memory)
  await createStore(memory.db).modelId('a')
  memory.commit(batch({ close: [closing({ id: idAt(T0) })] }))
  expect((await inProcess.usage(1, { fromMs: T0 })).request_count).toBe(1)
  await inProcess.close()
  memory.close()
})
