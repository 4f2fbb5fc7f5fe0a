/** What disturbs the streams: each answer of it is checked, whole or refused. */
import { afterAll, expect, test } from 'bun:test'
import { type DisturbOrder, disturb } from '../../bench/disturb.ts'
import { startSimulator } from '../../src/simulator/simulator.ts'

const simulator = await startSimulator()
afterAll(() => simulator.close())

const pages = Bun.serve({
  port: 0,
  fetch: request =>
    request.url.endsWith('export')
      ? new Response('id,user_id\n1,a\n2,b\n')
      : Response.json({ data: [{ id: '1' }, { id: '2' }] }),
})
afterAll(() => pages.stop(true))

const once = (order: Pick<DisturbOrder, 'url' | 'large'> & Partial<DisturbOrder>) =>
  disturb({ key: 'none', status: 200, everyMs: 0, ...order }, AbortSignal.abort())

test('a body is of the size that was asked for, and its answer is read to the token', async () => {
  const url = `${simulator.url}/api/chat`
  const large = { what: 'text', bodyBytes: 100_000, dialect: 'ollama' } as const
  expect(await once({ url, large })).toMatchObject({ answered: 1, wrong: 0, faults: [] })
  expect(simulator.requests.at(-1)?.bytes.length).toBe(100_000)
  expect(await once({ url, large: { what: 'messages', count: 300, dialect: 'ollama' } })).toMatchObject({
    answered: 1,
    wrong: 0,
  })
  expect(await once({ url, large: { ...large, dialect: 'openai' } })).toMatchObject({ answered: 0, wrong: 1 })
})

test('an export with too few rows, another page and another status are faults', async () => {
  const exported = `${pages.url}export`
  const history = `${pages.url}history`
  const wrong = async (order: Parameters<typeof once>[0]) => (await once(order)).wrong
  expect(await wrong({ url: exported, large: { what: 'export', rowsAtLeast: 2 } })).toBe(0)
  expect(await wrong({ url: exported, large: { what: 'export', rowsAtLeast: 3 } })).toBe(1)
  expect(await wrong({ url: history, large: { what: 'history', rows: 2 } })).toBe(0)
  expect(await wrong({ url: history, large: { what: 'history', rows: 3 } })).toBe(1)
  expect(await wrong({ url: history, status: 400, large: { what: 'history', rows: 2 } })).toBe(1)
})
