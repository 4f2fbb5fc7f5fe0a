/** The load generator against a simulated Ollama in this process: what it must find right, and what wrong. */
import { afterAll, expect, test } from 'bun:test'
import { type LoadOrder, runLoad } from '../../bench/load.ts'
import { startSimulator } from '../../src/simulator/simulator.ts'

const simulator = await startSimulator()
afterAll(() => simulator.close())

const order = (given: Partial<LoadOrder>): LoadOrder => ({
  host: '127.0.0.1',
  port: simulator.port,
  path: '/api/chat',
  dialect: 'ollama',
  model: 'fake-c10',
  stream: true,
  tokens: 10,
  status: 200,
  connections: 4,
  warmUp: 0,
  requests: 12,
  ...given,
})

test('streams and plain answers of both dialects are counted to the last token', async () => {
  for (const path of ['/api/chat', '/v1/chat/completions']) {
    for (const stream of [true, false]) {
      const dialect = path === '/api/chat' ? 'ollama' : 'openai'
      const { right, wrong, tokens, faults } = await runLoad(order({ path, dialect, stream }))
      expect({ path, stream, right, wrong, tokens, faults }).toEqual({
        path,
        stream,
        right: 12,
        wrong: 0,
        tokens: 120,
        faults: [],
      })
    }
  }
})

test('the warm-up is checked and not counted', async () => {
  expect(await runLoad(order({ warmUp: 5 }))).toMatchObject({ right: 12, wrong: 0, tokens: 120 })
  expect(await runLoad(order({ warmUp: 5, requests: 1, tokens: 11 }))).toMatchObject({ right: 0, wrong: 6 })
})

test('requests are the same bytes again, or no two of them where they are to be unlike', async () => {
  for (const unlike of [false, true]) {
    const before = simulator.requests.length
    expect(await runLoad(order({ unlike }))).toMatchObject({ right: 12, wrong: 0 })
    const texts = simulator.requests.slice(before).map(({ body }) => JSON.stringify(body))
    expect(texts).toHaveLength(12)
    expect(new Set(texts).size).toBe(unlike ? 12 : 1)
    expect(new Set(texts.map(text => text.length)).size).toBe(1)
  }
})

test('every answer that breaks off is a wrong one: reset, closed, ended early, an error line, another status', async () => {
  for (const fault of ['r', 'f', 'q', 'e', 'h', 'g']) {
    const result = await runLoad(order({ model: `fake-c10-x${fault}-k5`, requests: 6 }))
    expect({ fault, right: result.right, wrong: result.wrong }).toEqual({ fault, right: 0, wrong: 6 })
  }
})

test('a server that is not there ends the run at once, with every connection wrong', async () => {
  const gone = await startSimulator()
  await gone.close()
  expect(await runLoad(order({ port: gone.port }))).toMatchObject({ right: 0, wrong: 4 })
})
