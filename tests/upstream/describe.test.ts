import { expect, test } from 'bun:test'
import { createUpstream } from '../../src/upstream/ollama.ts'

test('a model that Ollama does not know is asked for once in two seconds, and found as soon as it was pulled', async () => {
  let nowMs = 0
  let asked = 0
  let pulled = false
  const upstream = createUpstream({
    baseUrl: 'http://ollama.test',
    now: () => nowMs,
    fetch: async url => {
      if (!url.endsWith('/api/show')) return Response.json({ models: [] })
      asked++
      return pulled ? Response.json({ capabilities: ['completion'] }) : new Response('{}', { status: 404 })
    },
  })
  for (let i = 0; i < 50; i++) expect(await upstream.describe('new')).toBeUndefined()
  expect(asked).toBe(1)
  pulled = true
  nowMs += 2000
  expect(await upstream.describe('new')).toMatchObject({ capabilities: ['completion'] })
})
