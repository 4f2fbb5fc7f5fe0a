import { expect, test } from 'bun:test'
import { toLogText } from '../../src/upstream/error-text.ts'
import { toApiError, toStreamFault } from '../../src/upstream/faults.ts'

test('what a model wrote or was sent never reaches the log with an error of Ollama', () => {
  const secret = 'the secret plan'
  const texts = [
    `error parsing tool call: raw='${secret}', err=invalid character`,
    `llama-server returned invalid tool call arguments for "f": ${secret}`,
    `template: executing failed at prompt: ${secret}`,
  ]
  for (const text of texts) {
    expect(toLogText(text)).not.toContain(secret)
    expect(String(toStreamFault(text).cause)).not.toContain(secret)
    const refused = toApiError(500, JSON.stringify({ error: text }), { model: 'm', usesImages: false })
    expect(String(refused.cause)).not.toContain(secret)
  }
})

test('a reason that helps the operator stays in the log', () => {
  expect(toLogText('llama runner process has terminated: exit status 2')).toBe(
    'llama runner process has terminated: exit status 2',
  )
})
