import { expect, test } from 'bun:test'
import { get, type Session, startSession } from './support.ts'

const models = ['llama3.2:latest', 'hf.co/Org/Name:Q4_K_M', 'team/tool:1b', 'qwen3:8b-cloud']
const ids = async (session: Session, key: string) =>
  (await get(session, key, '/v1/models')).body.data.map((model: { id: string }) => model.id)

test('models are listed in OpenAI shape under their canonical names, without cloud models', async () => {
  const session = await startSession({ simulator: { models } })
  const key = await session.proxy.createUser('alice')
  const { body } = await get(session, key, '/v1/models')
  expect(Object.keys(body)).toEqual(['object', 'data'])
  expect(body.object).toBe('list')
  const created = expect.any(Number)
  expect(body.data).toEqual([
    { id: 'llama3.2', object: 'model', created, owned_by: 'library' },
    { id: 'hf.co/org/name:q4_k_m', object: 'model', created, owned_by: 'org' },
    { id: 'team/tool:1b', object: 'model', created, owned_by: 'team' },
  ])
  for (const model of body.data) {
    expect(Number.isInteger(model.created)).toBe(true)
    expect(model.created).toBeLessThan(10_000_000_000)
  }
})

test('cloud models are listed where they are allowed', async () => {
  const session = await startSession({ simulator: { models }, settings: { ALLOW_CLOUD_MODELS: 'true' } })
  const key = await session.proxy.createUser('alice')
  expect(await ids(session, key)).toContain('qwen3:8b-cloud')
})

test('a key sees the models it may use and no others', async () => {
  const session = await startSession({ simulator: { models } })
  await session.proxy.createUser('alice')
  const { body } = await session.proxy.admin('/admin/users/alice/keys', {
    json: { models: ['LLAMA3.2', 'not-installed'] },
  })
  expect(await ids(session, body.api_key)).toEqual(['llama3.2'])
  expect((await get(session, body.api_key, '/v1/models/llama3.2')).status).toBe(200)
  const hidden = await get(session, body.api_key, '/v1/models/team/tool:1b')
  const missing = await get(session, body.api_key, '/v1/models/no/such')
  expect([hidden.status, missing.status]).toEqual([404, 404])
  expect(hidden.body.error.message.replace('team/tool:1b', '')).toBe(
    missing.body.error.message.replace('no/such', ''),
  )
})

test('two spellings of one model in Ollama are one model of ours, with the later date', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  const tags = {
    models: [
      { name: 'm:latest', modified_at: '2026-01-02T00:00:00Z' },
      { name: 'registry.ollama.ai/library/M:latest', modified_at: '2026-01-03T00:00:00Z' },
      { name: 'library/m', modified_at: '2026-01-01T00:00:00Z' },
      { name: 'z', modified_at: 'garbage' },
      { name: '' },
    ],
  }
  const ollama = Bun.serve({ port: 0, hostname: '127.0.0.1', fetch: () => Response.json(tags) })
  try {
    const other = await startSession({ settings: { OLLAMA_BASE_URL: `http://127.0.0.1:${ollama.port}` } })
    const otherKey = await other.proxy.createUser('alice')
    expect((await get(other, otherKey, '/v1/models')).body.data).toEqual([
      { id: 'm', object: 'model', created: Date.UTC(2026, 0, 3) / 1000, owned_by: 'library' },
      { id: 'z', object: 'model', created: 0, owned_by: 'library' },
    ])
  } finally {
    await ollama.stop(true)
  }
  expect(await ids(session, key)).toEqual(['m'])
})

test('a single model is found by any spelling, its slashes and colons encoded or not', async () => {
  const session = await startSession({ simulator: { models } })
  const key = await session.proxy.createUser('alice')
  const spellings = [
    'hf.co%2FOrg%2FName:Q4_K_M',
    'hf.co%2Forg%2Fname%3Aq4_k_m',
    'hf.co/org/name:q4_k_m',
    'hf.co/Org/Name:Q4_K_M',
    'hf.co/org%2Fname:q4_k_m',
  ]
  for (const spelling of spellings) {
    const { status, body } = await get(session, key, `/v1/models/${spelling}`)
    expect([spelling, status, body.id]).toEqual([spelling, 200, 'hf.co/org/name:q4_k_m'])
  }
  expect((await get(session, key, '/v1/models/registry.ollama.ai/library/llama3.2:latest')).body.id).toBe(
    'llama3.2',
  )
})

test('an unknown model is a 404 model_not_found whose message stays short', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  for (const name of ['no/such:1b', '%00', '%', '..%2F..', 'x'.repeat(5000)]) {
    const { status, body } = await get(session, key, `/v1/models/${name}`)
    expect([status, body.error.code]).toEqual([404, 'model_not_found'])
    expect(body.error.message.length).toBeLessThan(200)
  }
})

test('a Codex client, which sends its version, finds the field it reads', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  const { body } = await get(session, key, '/v1/models?client_version=0.99.0')
  expect(body).toMatchObject({ object: 'list', data: [{ id: 'm' }], models: [] })
})

test('models pulled or removed show at once', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  expect(await ids(session, key)).toEqual(['m'])
  session.ollama.catalogue.add('new')
  expect((await ids(session, key)).toSorted()).toEqual(['m', 'new'])
  session.ollama.catalogue.remove('m')
  expect(await ids(session, key)).toEqual(['new'])
})

test('the list is a 502 upstream_error, without an address, when Ollama is away', async () => {
  const session = await startSession()
  const key = await session.proxy.createUser('alice')
  await session.ollama.close()
  const { status, body } = await get(session, key, '/v1/models')
  expect([status, body.error.type, body.error.code]).toEqual([502, 'server_error', 'upstream_error'])
  expect(JSON.stringify(body)).not.toContain('127.0.0.1')
})

test('the SDK lists and retrieves models', async () => {
  const session = await startSession({ simulator: { models } })
  const client = session.proxy.sdk(await session.proxy.createUser('alice'))
  const listed: string[] = []
  for await (const model of client.models.list()) listed.push(model.id)
  expect(listed).toContain('hf.co/org/name:q4_k_m')
  expect((await client.models.retrieve('hf.co/Org/Name:Q4_K_M')).owned_by).toBe('org')
  const missing = async () => client.models.retrieve('none')
  await expect(missing()).rejects.toMatchObject({ status: 404, code: 'model_not_found' })
})
