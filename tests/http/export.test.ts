import { expect, test } from 'bun:test'
import { toExportStream } from '../../src/http/export.ts'
import type { Reports } from '../../src/store/reports.ts'
import { ADMIN_KEY, START_MS } from '../support/proxy.ts'
import { get, type Session, spend, startSession } from './support.ts'

const exported = async ({ proxy }: Session, query = '') => {
  const response = await proxy.call(`/admin/usage/export${query}`, { key: ADMIN_KEY })
  return { response, text: await response.text() }
}
const lines = (text: string) => text.split('\n').filter(line => line !== '')

const columns = [
  'user_id',
  'id',
  'request_id',
  'model',
  'prompt_tokens',
  'completion_tokens',
  'total_tokens',
  'cost',
  'outcome',
  'basis',
  'started_at',
  'ended_at',
  'first_token_ms',
  'duration_ms',
  'api_key_id',
  'prompt_preview',
]

test('an export as NDJSON has one history row a line, oldest first, with the user id', async () => {
  const session = await startSession()
  const alice = await session.proxy.createUser('alice')
  const bob = await session.proxy.createUser('bob')
  await spend(session, alice)
  await spend(session, bob)
  const { response, text } = await exported(session, '?format=ndjson')
  expect(response.headers.get('content-type')).toStartWith('application/x-ndjson')
  expect(response.headers.get('content-disposition')).toBe('attachment; filename="usage.ndjson"')
  const rows = lines(text).map(line => JSON.parse(line))
  const [first] = (await get(session, alice, '/v1/usage/history')).body.data
  const [second] = (await get(session, bob, '/v1/usage/history')).body.data
  expect(rows).toEqual([
    { user_id: 'alice', ...first },
    { user_id: 'bob', ...second },
  ])
  expect(Object.keys(rows[0])).toEqual(columns)
})

test('an export is CSV unless told otherwise, with a header line also where there are no rows', async () => {
  const session = await startSession()
  const empty = await exported(session)
  expect(empty.response.headers.get('content-type')).toStartWith('text/csv')
  expect(empty.response.headers.get('content-disposition')).toBe('attachment; filename="usage.csv"')
  expect(lines(empty.text)).toEqual([columns.join(',')])
  const key = await session.proxy.createUser('alice')
  const { id } = await spend(session, key)
  const [header, row, ...more] = lines((await exported(session, '?format=csv')).text)
  expect(header).toBe(columns.join(','))
  expect(row).toStartWith(`alice,${id},req_`)
  expect(more).toEqual([])
})

test('an export is narrowed by range, user and model in any spelling', async () => {
  const session = await startSession({ simulator: { models: ['m', 'other'] } })
  const alice = await session.proxy.createUser('alice')
  const bob = await session.proxy.createUser('bob')
  await spend(session, alice)
  session.proxy.pass(1000)
  await spend(session, bob, { model: 'other' })
  const users = async (query: string) =>
    lines((await exported(session, `?format=ndjson&${query}`)).text).map(line => JSON.parse(line).user_id)
  const second = new Date(START_MS + 1000).toISOString()
  expect(await users('')).toEqual(['alice', 'bob'])
  expect(await users(`from=${second}`)).toEqual(['bob'])
  expect(await users(`to=${second}`)).toEqual(['alice'])
  expect(await users('user_id=bob')).toEqual(['bob'])
  expect(await users('model=library/Other:latest')).toEqual(['bob'])
  expect(await users('user_id=alice&model=other')).toEqual([])
  expect(await users('model=never-used')).toEqual([])
})

/** A ledger of any length: every page is one line; the rest of the reports is not asked. */
const endless = (pages: number, textOf: (page: number) => string) => {
  const asked: (number | undefined)[] = []
  const reports = {
    async exportPage(_query: unknown, _format: unknown, after: number | undefined) {
      asked.push(after)
      const page = after ?? 0
      return { text: textOf(page), next: page + 1 < pages ? page + 1 : undefined }
    },
  } as Partial<Reports> as Reports
  return { reports, asked }
}

test('an export reads a page only when the client has taken the one before', async () => {
  const { reports, asked } = endless(1_000_000, page => `${page}\n`)
  const reader = (await toExportStream(reports, 'ndjson', {})).getReader()
  expect(asked).toEqual([undefined])
  await reader.read()
  expect(asked).toEqual([undefined])
  await reader.read()
  expect(asked).toEqual([undefined, 1])
  await reader.cancel()
  expect(asked).toEqual([undefined, 1])
})

test('pages without a row are passed over: no empty chunk, and the end is the end of the ledger', async () => {
  const { reports } = endless(50, page => (page % 7 === 3 ? `${page}\n` : ''))
  const chunks = await Array.fromAsync(await toExportStream(reports, 'ndjson', {}))
  expect(chunks.map(chunk => new TextDecoder().decode(chunk))).toEqual(
    [3, 10, 17, 24, 31, 38, 45].map(page => `${page}\n`),
  )
})

test('a fault in the midst of an export breaks it off instead of ending it as if it were whole', async () => {
  const { reports } = endless(50, page => {
    if (page === 2) throw new Error('the disk is gone')
    return `${page}\n`
  })
  const reader = (await toExportStream(reports, 'ndjson', {})).getReader()
  await reader.read()
  await reader.read()
  await expect(reader.read()).rejects.toThrow('the disk is gone')
})

test('a client that leaves ends the search for the next row', async () => {
  const { reports, asked } = endless(1_000_000, () => '')
  const reader = (await toExportStream(reports, 'ndjson', {})).getReader()
  const reading = reader.read()
  await reader.cancel()
  expect(await reading).toEqual({ done: true, value: undefined })
  const count = asked.length
  await Bun.sleep(0)
  expect(asked.length).toBeLessThanOrEqual(count + 1)
})
