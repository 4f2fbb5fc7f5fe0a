import { expect, test } from 'bun:test'
import fc from 'fast-check'
import { createResponseReader } from '../../bench/response.ts'

const record = () => {
  const seen: string[] = []
  let body = ''
  const reader = createResponseReader({
    head: ({ status, keepAlive }) => void seen.push(`${status}${keepAlive ? '' : ' close'}`),
    body(text) {
      body += text
    },
    end() {
      seen.push(body)
      body = ''
    },
    fault: sentence => void seen.push(`fault: ${sentence}`),
  })
  return { reader, seen }
}

const two =
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: 1\r\n\r\n' +
  'HTTP/1.1 429 Too Many\r\ncontent-length: 4\r\nConnection: close\r\n\r\nlate'

test('responses read the same however their bytes are split', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: two.length }), { maxLength: 40 }), cuts => {
      const { reader, seen } = record()
      const points = [0, ...cuts.toSorted((a, b) => a - b), two.length]
      for (const [index, point] of points.slice(1).entries()) reader.push(two.slice(points[index], point))
      expect(seen).toEqual(['200', 'hello world', '429 close', 'late'])
      expect(reader.closed()).toBe(true)
    }),
  )
})

test('a body without a length ends with its connection', () => {
  const { reader, seen } = record()
  reader.push('HTTP/1.1 200 OK\r\n\r\nall of it')
  expect(reader.closed()).toBe(true)
  expect(seen).toEqual(['200 close', 'all of it'])
})

test('a connection that closes within a body did not end the response', () => {
  const { reader, seen } = record()
  reader.push('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
  expect(reader.closed()).toBe(false)
  expect(seen).toEqual(['200'])
})
