/** The clients that hardly read, against a simulated Ollama in this process. */
import { afterAll, expect, test } from 'bun:test'
import { canReadSlowly } from '../../bench/slow.ts'
import { readSlowly } from '../../bench/slow-clients.ts'
import { startSimulator } from '../../src/simulator/simulator.ts'

const simulator = await startSimulator()
afterAll(() => simulator.close())

const read = (given: { model: string; port?: number }) => {
  const over = new AbortController()
  return readSlowly(
    {
      port: simulator.port,
      path: '/v1/chat/completions',
      key: 'none',
      clients: 5,
      clientsPerSecond: 1000,
      ...given,
    },
    over.signal,
    () => over.abort(),
  )
}

test.if(canReadSlowly)('each has its status and nothing more at once', async () => {
  expect(await read({ model: 'fake-c1000' })).toEqual({ begun: 5, bytesRead: 60, wrong: 0, faults: [] })
})

test.if(canReadSlowly)('a refusal and a server that is not there are faults, one a client', async () => {
  const refused = await read({ model: 'fake-c10-xh' })
  expect(refused).toMatchObject({ begun: 0, wrong: 5 })
  expect(refused.faults).toContain('slow client: answered: HTTP/1.1 500')
  const gone = await startSimulator()
  await gone.close()
  expect(await read({ model: 'fake-c10', port: gone.port })).toMatchObject({ begun: 0, wrong: 5 })
})
