import { expect, test } from 'bun:test'
import { adminPricing } from '../../src/http/admin-pricing.ts'
import { createModels } from '../../src/models.ts'
import { openMemory } from '../store/support.ts'
import { START_MS } from '../support/proxy.ts'
import { get, type Session, spend, startSession } from './support.ts'

const iso = (ms: number) => new Date(ms).toISOString()
const name = 'hf.co/org/name:q4_k_m'
const price = (model: string, input: number, output: number) => ({
  model,
  input_cost_per_million: input,
  output_cost_per_million: output,
})
const post = async ({ proxy }: Session, json: unknown) => proxy.admin('/admin/pricing', { json })
const spellings = [
  'hf.co/org/name:q4_k_m',
  'hf.co/Org/Name:Q4_K_M',
  'hf.co%2Forg%2Fname:q4_k_m',
  'hf.co%2FOrg%2FName%3AQ4_K_M',
  'hf.co/org%2Fname%3aq4_k_m',
]

test('a price is made or replaced, under the canonical name of its model', async () => {
  const session = await startSession()
  const created = await post(session, price('registry.ollama.ai/library/Llama3.2:latest', 0.1, 0.2))
  const first = { ...price('llama3.2', 0.1, 0.2), created_at: iso(START_MS), updated_at: iso(START_MS) }
  expect([created.status, created.body]).toEqual([201, first])
  session.proxy.pass(1000)
  const replaced = await post(session, price('LLAMA3.2', 3, 0))
  const second = { ...price('llama3.2', 3, 0), created_at: iso(START_MS), updated_at: iso(START_MS + 1000) }
  expect([replaced.status, replaced.body]).toEqual([201, second])
  expect((await session.proxy.admin('/admin/pricing')).body).toEqual({ pricing: [second] })
})

test('a model in a path may be spelled in any way, its slashes and colons encoded or not', async () => {
  const session = await startSession()
  await post(session, price(name, 1, 2))
  for (const spelling of spellings) {
    const found = await session.proxy.admin(`/admin/pricing/${spelling}`)
    expect([spelling, found.status, found.body.model]).toEqual([spelling, 200, name])
    const put = await session.proxy.admin(`/admin/pricing/${spelling}`, {
      method: 'PUT',
      json: { input_cost_per_million: 1 },
    })
    expect([spelling, put.status, put.body.model]).toEqual([spelling, 200, name])
    const history = await session.proxy.admin(`/admin/pricing/history/${spelling}`)
    expect([spelling, history.status, history.body.history[0].model]).toEqual([spelling, 200, name])
    const gone = await session.proxy.admin(`/admin/pricing/${spelling}`, { method: 'DELETE' })
    expect([spelling, gone.status, gone.body]).toEqual([spelling, 200, { model: name, deleted: true }])
    await post(session, price(name, 1, 2))
  }
})

test('a change touches what it names and leaves the other half', async () => {
  const session = await startSession()
  await post(session, price('m', 1, 2))
  const put = async (json: unknown) =>
    (await session.proxy.admin('/admin/pricing/m', { method: 'PUT', json })).body
  expect(await put({ input_cost_per_million: 5 })).toMatchObject(price('m', 5, 2))
  expect(await put({ output_cost_per_million: 0 })).toMatchObject(price('m', 5, 0))
})

test('two changes of one price at the same time are both kept, also where the database takes its time', async () => {
  const { store, close } = openMemory()
  const slow = {
    ...store,
    async findPrice(model: string) {
      const found = await store.findPrice(model)
      await new Promise(resolve => setImmediate(resolve))
      return found
    },
  }
  const models = createModels({ store, allowCloudModels: false })
  const app = adminPricing({ store: slow, models, now: () => START_MS })
  const send = (path: string, method: string, json: unknown) =>
    app.request(path, { method, body: JSON.stringify(json), headers: { 'content-type': 'application/json' } })
  await send('/', 'POST', price('m', 1, 2))
  await Promise.all([
    send('/m', 'PUT', { input_cost_per_million: 5 }),
    send('/m', 'PUT', { output_cost_per_million: 6 }),
  ])
  expect(await store.findPrice('m')).toMatchObject({ inputPrice: 5_000_000, outputPrice: 6_000_000 })
  expect(models.priceOf('m')).toEqual({ input: 5_000_000, output: 6_000_000 })
  close()
})

test('a model without a price is a 404 price_not_found', async () => {
  const session = await startSession()
  const body = price('m', 1, 2)
  for (const init of [{}, { method: 'PUT', json: { input_cost_per_million: 1 } }, { method: 'DELETE' }]) {
    const { status, body: answer } = await session.proxy.admin('/admin/pricing/m', init)
    expect([status, answer.error]).toEqual([404, expect.objectContaining({ code: 'price_not_found' })])
  }
  await post(session, body)
  await session.proxy.admin('/admin/pricing/m', { method: 'DELETE' })
  expect((await session.proxy.admin('/admin/pricing/m')).status).toBe(404)
  expect((await session.proxy.admin('/admin/pricing')).body).toEqual({ pricing: [] })
})

test('prices that are none are a 400 that names the field', async () => {
  const session = await startSession()
  await post(session, price('m', 1, 2))
  const wrongAmounts = [-1, 1_000_001, 0.1234567, 1e-7, '1', true, null, []]
  const wrong: [string, string, unknown, string][] = [
    ...['input_cost_per_million', 'output_cost_per_million'].flatMap(field =>
      wrongAmounts.flatMap((amount): [string, string, unknown, string][] => [
        ['POST', '', { ...price('m', 1, 2), [field]: amount }, field],
        ['PUT', '/m', { [field]: amount }, field],
      ]),
    ),
    ['POST', '', { model: 'm', input_cost_per_million: 1 }, 'output_cost_per_million'],
    ['POST', '', { ...price('m', 1, 2), model: undefined }, 'model'],
    ['POST', '', price('', 1, 2), 'model'],
    ['POST', '', price(':latest', 1, 2), 'model'],
    ['POST', '', price('x'.repeat(513), 1, 2), 'model'],
    ['POST', '', { ...price('m', 1, 2), currency: 'EUR' }, 'currency'],
    ['PUT', '/m', {}, 'input_cost_per_million'],
    ['PUT', '/m', { model: 'm' }, 'model'],
  ]
  for (const [method, path, json, param] of wrong) {
    const { status, body } = await session.proxy.admin(`/admin/pricing${path}`, { method, json })
    expect([method, json, status, body.error?.param]).toEqual([method, json, 400, param])
  }
  expect((await session.proxy.admin('/admin/pricing/history/all')).body.history).toHaveLength(1)
})

test('a price holds from the next request on, and rows keep the price their request began with', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  const costs = async () =>
    (await get(session, key, '/v1/usage/history')).body.data.map((row: { cost: number }) => row.cost)
  await spend(session, key, { prompt: 10, completion: 5 })
  await post(session, price('m', 0.000001, 1_000_000))
  await spend(session, key, { prompt: 10, completion: 5 })
  await session.proxy.admin('/admin/pricing/m', { method: 'PUT', json: { output_cost_per_million: 0.1 } })
  await spend(session, key, { prompt: 10, completion: 3 })
  await session.proxy.admin('/admin/pricing/m', { method: 'DELETE' })
  await spend(session, key, { prompt: 10, completion: 5 })
  expect(await costs()).toEqual([0, 0.00000030001, 5.00000000001, 0])
  const { body } = await get(session, key, '/v1/usage')
  expect(body.total_cost).toBe(5.00000030002)
  expect(body.unpriced).toEqual(['m'])
})

test('the history of prices is kept newest first, a deletion as a row of nulls', async () => {
  const session = await startSession()
  await post(session, price('m', 1, 2))
  session.proxy.pass(1000)
  await post(session, price('other', 3, 4))
  await session.proxy.admin('/admin/pricing/m', { method: 'PUT', json: { output_cost_per_million: 5 } })
  await session.proxy.admin('/admin/pricing/m', { method: 'DELETE' })
  const [at, later] = [iso(START_MS), iso(START_MS + 1000)]
  const nulls = { input_cost_per_million: null, output_cost_per_million: null }
  const history = [
    { id: 4, model: 'm', ...nulls, changed_by: 'admin', changed_at: later },
    { id: 3, ...price('m', 1, 5), changed_by: 'admin', changed_at: later },
    { id: 2, ...price('other', 3, 4), changed_by: 'admin', changed_at: later },
    { id: 1, ...price('m', 1, 2), changed_by: 'admin', changed_at: at },
  ]
  expect((await session.proxy.admin('/admin/pricing/history/all')).body).toEqual({ history })
  expect((await session.proxy.admin('/admin/pricing/history/M:latest')).body).toEqual({
    history: history.filter(change => change.model === 'm'),
  })
  expect((await session.proxy.admin('/admin/pricing/history/never')).body).toEqual({ history: [] })
})
