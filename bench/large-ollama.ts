/**
 * The simulated Ollama for loads with large requests: the same, but of a large body it looks at the two ends only.
 *
 * Parsing 32 MB would hold it up for 60 ms, and hundreds of paced tokens that are late here come to the proxy in one
 * rush; their delay there would be taken for the proxy's doing.
 *
 * `bun bench/large-ollama.ts [--port 0] [--log 0]`
 */
import { parseArgs } from 'node:util'
import { createCatalogue } from '../src/simulator/catalogue.ts'
import { createEndpoints } from '../src/simulator/endpoints.ts'
import type { HttpRequest } from '../src/simulator/exchange.ts'
import { listen } from '../src/simulator/http.ts'
import { createJournal, toStats } from '../src/simulator/journal.ts'
import { receive } from '../src/simulator/received.ts'
import { createWheel } from '../src/simulator/wheel.ts'

const LARGE_BYTES = 200_000
const END_BYTES = 2000

const { values } = parseArgs({
  options: { port: { type: 'string', default: '0' }, log: { type: 'string', default: '0' } },
})

const journal = createJournal(Number(values.log))
const endpoints = createEndpoints({
  catalogue: createCatalogue(),
  journal,
  wheel: createWheel(),
  version: '0.0.0',
  msPerToken: 0,
  faults: { probability: 0, seed: 1, kinds: [] },
  stats: () => toStats(journal, server),
  now: Date.now,
})

/** A large request with a short message in place of its own; model and `stream` stand at one of its ends. */
const shorten = (request: HttpRequest): HttpRequest => {
  const { bytes } = request
  if (bytes.length < LARGE_BYTES) return request
  const ends = Buffer.concat([bytes.subarray(0, END_BYTES), bytes.subarray(-END_BYTES)]).toString('latin1')
  const body = {
    model: /"model":"([^"]+)"/.exec(ends)?.[1],
    stream: !/"stream":false/.test(ends),
    messages: [{ role: 'user', content: 'Something long.' }],
  }
  return { ...request, bytes: Buffer.from(JSON.stringify(body)) }
}

const server = listen({ port: Number(values.port) }, (request, exchange) => {
  journal.totals.requests++
  endpoints.regular(receive(shorten(request), exchange, Date.now()), exchange)
})
console.log(`Simulated Ollama at http://127.0.0.1:${server.port}`)
process.on('SIGTERM', () => process.exit(0))
