/**
 * HTTP/1.1 by hand over raw sockets, because a simulated upstream must be able to do what no HTTP library offers: leave
 * inside a chunk, reset, stay silent, write one byte at a time, and know which bytes the kernel has taken.
 *
 * One request is answered at a time per connection; what is pipelined behind it waits. As in Ollama (Go's net/http), a
 * client that closes or half-closes its side has hung up, and headers leave together with the first byte of the body.
 */
import type { Socket } from 'bun'

import { createExchange, type Exchange, type HttpRequest } from './exchange.ts'

const headBytesMax = 65_536

type Head = { method: string; target: string; headers: Record<string, string>; length: number | 'chunked' }

const parseHead = (text: string): Head | undefined => {
  const lines = text.split('\r\n')
  const [method, target, version] = (lines[0] ?? '').split(' ')
  if (method === undefined || target === undefined || !version?.startsWith('HTTP/1.')) return undefined
  const headers: Record<string, string> = {}
  for (let index = 1; index < lines.length; index++) {
    const line = lines[index] ?? ''
    const colon = line.indexOf(':')
    if (colon > 0) headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim()
  }
  const chunked = headers['transfer-encoding']?.toLowerCase().includes('chunked') === true
  return { method, target, headers, length: chunked ? 'chunked' : Number(headers['content-length'] ?? 0) }
}

/** The body of a chunked request and the bytes it took, or undefined while its last chunk is missing. */
const readChunked = (bytes: Buffer): { body: Buffer; used: number } | undefined => {
  const pieces: Buffer[] = []
  for (let at = 0; ; ) {
    const lineEnd = bytes.indexOf('\r\n', at)
    if (lineEnd < 0) return undefined
    const size = Number.parseInt(bytes.toString('latin1', at, lineEnd), 16)
    const start = lineEnd + 2
    if (bytes.length < start + size + 2) return undefined
    if (!(size > 0)) return { body: Buffer.concat(pieces), used: start + 2 }
    pieces.push(bytes.subarray(start, start + size))
    at = start + size + 2
  }
}

type Connection = { receive(data: Buffer): void; flush(): void; left(): void }

const createConnection = (
  socket: Socket<unknown>,
  onRequest: (request: HttpRequest, exchange: Exchange) => void,
): Connection => {
  const received: Buffer[] = []
  let size = 0
  let head: Head | undefined
  let current: ReturnType<typeof createExchange> | undefined

  const joined = () => {
    if (received.length > 1) received.splice(0, received.length, Buffer.concat(received))
    return received[0] ?? Buffer.alloc(0)
  }
  const consume = (count: number) => {
    const rest = joined().subarray(count)
    received.length = 0
    if (rest.length > 0) received.push(rest)
    size = rest.length
  }

  const readHead = () => {
    const bytes = joined()
    const end = bytes.indexOf('\r\n\r\n')
    if (end < 0) {
      if (size > headBytesMax)
        socket.end('HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\n\r\n')
      return
    }
    head = parseHead(bytes.toString('latin1', 0, end))
    consume(end + 4)
    if (head === undefined)
      socket.end('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
    else if (head.headers['expect'] === '100-continue') socket.write('HTTP/1.1 100 Continue\r\n\r\n')
  }

  const readBody = (length: number | 'chunked'): Buffer | undefined => {
    if (length === 'chunked') {
      // Joining is linear in what has arrived, so it is tried only when the tail can be the end.
      const tail = received.at(-1)
      if (tail === undefined || (tail.length >= 2 && !tail.subarray(-2).equals(Buffer.from('\r\n'))))
        return undefined
      const whole = readChunked(joined())
      if (whole === undefined) return undefined
      consume(whole.used)
      return whole.body
    }
    if (size < length) return undefined
    if (length === 0) return Buffer.alloc(0)
    const body = joined().subarray(0, length)
    consume(length)
    return body
  }

  const advance = () => {
    while (current === undefined && size + (head === undefined ? 0 : 1) > 0) {
      if (head === undefined) readHead()
      if (head === undefined) return
      const bytes = readBody(head.length)
      if (bytes === undefined) return
      const { method, target, headers } = head
      head = undefined
      const question = target.indexOf('?')
      const path = question < 0 ? target : target.slice(0, question)
      const query = new URLSearchParams(question < 0 ? '' : target.slice(question + 1))
      const request: HttpRequest = { method, path, query, headers, bytes }
      const next = createExchange(socket, request, keepAlive => {
        current = undefined
        if (keepAlive) queueMicrotask(advance)
      })
      current = next
      onRequest(request, next.exchange)
    }
  }

  return {
    receive(data) {
      received.push(data)
      size += data.length
      advance()
    },
    flush: () => current?.flush(),
    left() {
      current?.left()
      current = undefined
    },
  }
}

/** Listens on loopback unless told otherwise; port 0 takes a free one. */
export const listen = (
  { hostname = '127.0.0.1', port = 0 }: { hostname?: string | undefined; port?: number | undefined },
  onRequest: (request: HttpRequest, exchange: Exchange) => void,
) => {
  const open = new Set<Socket<{ connection?: Connection }>>()
  let accepted = 0
  const gone = (socket: Socket<{ connection?: Connection }>) => {
    open.delete(socket)
    socket.data.connection?.left()
    delete socket.data.connection
  }
  const listener = Bun.listen<{ connection?: Connection }>({
    hostname,
    port,
    socket: {
      open(socket) {
        accepted++
        socket.setNoDelay(true)
        socket.data = { connection: createConnection(socket, onRequest) }
        open.add(socket)
      },
      data: (socket, data) => socket.data.connection?.receive(data),
      drain: socket => socket.data.connection?.flush(),
      end(socket) {
        gone(socket)
        socket.end()
      },
      close: gone,
      error: gone,
    },
  })
  return {
    port: listener.port,
    accepted: () => accepted,
    open: () => open.size,
    /** Stops listening and resets every connection. */
    close() {
      listener.stop(true)
      for (const socket of open) socket.terminate()
    },
  }
}
