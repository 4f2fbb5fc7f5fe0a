/** A failed answer that was charged must not be repeated by an SDK on its own. */
import { expect, test } from 'bun:test'
import { truncate } from '../../src/simulator/script.ts'
import { startSession } from '../support/session.ts'

const messages = [{ role: 'user', content: 'Tell me about the river.' }]

test('a plain answer that dies before its first token is charged its prompt and must not be retried', async () => {
  const { ollama, proxy } = await startSession()
  const key = await proxy.createUser('alice')
  ollama.next(truncate())
  const answer = await proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages } })
  expect(answer.status).toBe(502)
  expect(answer.headers.get('x-should-retry')).toBe('false')
  const usage = (await (await proxy.call('/v1/usage', { key })).json()) as Record<string, number>
  expect(usage['prompt_tokens']).toBeGreaterThan(0)
  expect(usage['completion_tokens']).toBe(0)
})
