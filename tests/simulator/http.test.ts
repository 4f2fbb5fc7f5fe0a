import { afterAll, beforeAll, expect, test } from 'bun:test'
import fc from 'fast-check'
import type { Exchange, HttpRequest } from '../../src/simulator/exchange.ts'
import { listen } from '../../src/simulator/http.ts'
import { open, parseAnswer, readUntilClosed, toRequest } from './wire.ts'

const echo = (request: HttpRequest, exchange: Exchange) => {
  const { method, path, bytes } = request
  const text = `${method} ${path} ${Buffer.from(bytes).toString()}`
  exchange.head(200, {}, Buffer.byteLength(text))
  exchange.body(text)
  exchange.end()
}

let handle = echo
let server: ReturnType<typeof listen>
beforeAll(() => {
  server = listen({}, (request, exchange) => handle(request, exchange))
})
afterAll(() => server.close())

const bodyOf = (bytes: Buffer) => parseAnswer(bytes).body.toString()

test('a request cut anywhere is the same request', async () => {
  handle = echo
  const whole = toRequest('POST', '/x', 'Grüße, 日本')
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.integer({ min: 1, max: whole.length - 1 }), { maxLength: 6 }),
      async cuts => {
        const at = [0, ...cuts.sort((a, b) => a - b), whole.length]
        const pieces = at.slice(1).map((end, index) => whole.subarray(at[index] ?? 0, end))
        expect(bodyOf((await readUntilClosed(server.port, pieces)).bytes)).toBe('POST /x Grüße, 日本')
      },
    ),
    { numRuns: 30 },
  )
})

test('a request cut in two at any place is the same request', async () => {
  handle = echo
  const whole = toRequest('POST', '/x', 'Grüße')
  for (let cut = 1; cut < whole.length; cut++) {
    const pieces = [whole.subarray(0, cut), whole.subarray(cut)]
    expect(bodyOf((await readUntilClosed(server.port, pieces)).bytes)).toBe('POST /x Grüße')
  }
})

test('a chunked request is joined', async () => {
  handle = echo
  const request =
    'POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\n\r\n\r\n0\r\n\r\n'
  expect(bodyOf((await readUntilClosed(server.port, [request])).bytes)).toBe('POST /x abc\r\n')
})

test('requests on one connection are answered in order, pipelined ones too', async () => {
  handle = echo
  const again = { Connection: 'keep-alive' }
  const requests = [
    toRequest('GET', '/1', undefined, again),
    toRequest('GET', '/2', undefined, again),
    toRequest('GET', '/3'),
  ]
  const { bytes } = await readUntilClosed(server.port, [Buffer.concat(requests)])
  expect(bytes.toString().match(/GET \/\d/g)).toEqual(['GET /1', 'GET /2', 'GET /3'])
})

test('a body of 20 MB arrives whole', async () => {
  handle = (request, exchange) => {
    const text = `${Bun.hash(request.bytes)}`
    exchange.head(200, {}, text.length)
    exchange.body(text)
    exchange.end()
  }
  const body = 'abcdefg\n'.repeat(2_500_000)
  const { bytes } = await readUntilClosed(server.port, [toRequest('POST', '/x', body)])
  expect(bodyOf(bytes)).toBe(`${Bun.hash(Buffer.from(body))}`)
})

test('what is not HTTP gets a 400, an endless header a 431', async () => {
  expect((await readUntilClosed(server.port, ['nonsense\r\n\r\n'])).bytes.toString()).toStartWith(
    'HTTP/1.1 400 ',
  )
  expect((await readUntilClosed(server.port, ['x'.repeat(70_000)])).bytes.toString()).toStartWith(
    'HTTP/1.1 431 ',
  )
})

test('headers leave with the first byte of the body, not before', async () => {
  const seen = Promise.withResolvers<Exchange>()
  handle = (_, exchange) => {
    exchange.head(200, {})
    seen.resolve(exchange)
  }
  const socket = await open(server.port, toRequest('GET', '/x'))
  let reads = 0
  socket.on('data', () => reads++)
  const exchange = await seen.promise
  expect(exchange.deliveredBytes).toBe(0)
  const first = new Promise<Buffer>(resolve => socket.once('data', data => resolve(Buffer.from(data))))
  exchange.body('hello')
  expect((await first).toString()).toEndWith('5\r\nhello\r\n')
  expect(reads).toBe(1)
  socket.destroy()
})

test('tokens count as delivered only once the kernel has taken their last byte', async () => {
  const seen = Promise.withResolvers<Exchange>()
  handle = (_, exchange) => {
    exchange.head(200, {})
    exchange.body('x', 1)
    seen.resolve(exchange)
  }
  const socket = await open(server.port, toRequest('GET', '/x'))
  socket.pause()
  const exchange = await seen.promise
  expect(exchange.deliveredTokens).toBe(1)
  // Larger than all socket buffers: the kernel takes a part, the token is not delivered.
  exchange.body(new Uint8Array(64 << 20), 1)
  exchange.body('y', 1)
  expect(exchange.queued).toBeGreaterThan(1 << 20)
  expect(exchange.deliveredTokens).toBe(1)
  const drained = new Promise<void>(resolve => exchange.drained(resolve))
  socket.resume()
  await drained
  expect(exchange.deliveredTokens).toBe(3)
  expect(exchange.queued).toBe(0)
  socket.destroy()
})

test('marks inside a batch are counted one by one as the kernel takes them', async () => {
  const seen = Promise.withResolvers<Exchange>()
  handle = (_, exchange) => {
    exchange.head(200, {}, 64 << 20)
    seen.resolve(exchange)
  }
  const socket = await open(server.port, toRequest('GET', '/x'))
  socket.pause()
  const exchange = await seen.promise
  const marks = Array.from({ length: 64 }, (_, index) => (index + 1) << 20)
  exchange.framed(new Uint8Array(64 << 20), marks)
  expect(exchange.deliveredTokens).toBeLessThan(64)
  const taken = exchange.deliveredBytes
  expect(exchange.deliveredTokens).toBeGreaterThanOrEqual(Math.floor(taken / (1 << 20)) - 1)
  const left = new Promise<boolean>(resolve => exchange.onOver(resolve))
  socket.destroy()
  expect(await left).toBe(true)
  expect(exchange.deliveredTokens).toBeLessThan(64)
})

test('closing half of the connection is hanging up, as in Ollama', async () => {
  const seen = Promise.withResolvers<Exchange>()
  handle = (_, exchange) => seen.resolve(exchange)
  const socket = await open(server.port, toRequest('GET', '/x'))
  const exchange = await seen.promise
  const left = new Promise<boolean>(resolve => exchange.onOver(resolve))
  socket.end()
  expect(await left).toBe(true)
  exchange.body('too late')
  exchange.end()
  expect(exchange.deliveredBytes).toBe(0)
})
