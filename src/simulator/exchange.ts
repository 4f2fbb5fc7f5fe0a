/**
 * One answer on its way to a client, byte by byte: what the kernel has taken is known, and so is who left first.
 */
import type { Socket } from 'bun'

export type HttpRequest = {
  method: string
  /** Without the query. */
  path: string
  query: URLSearchParams
  /** Names in lower case; a repeated header keeps its last value. */
  headers: Record<string, string>
  bytes: Uint8Array
}

/** One answer being written. After the client has left every call is a no-op. */
export type Exchange = {
  /** Holds the header back until the first byte of the body; without `length` the body is chunked. */
  head(status: number, headers: Record<string, string>, length?: number): void
  /** A part of the body (one HTTP chunk) that carries `tokens` tokens. */
  body(data: string | Uint8Array, tokens?: number): void
  /** Body bytes already framed as HTTP chunks; `marks` are the ends of its tokens, ascending. */
  framed(data: Uint8Array, marks: readonly number[]): void
  /** Bytes as they are: no framing, no header. */
  raw(data: string | Uint8Array): void
  /** A regular end; the connection stays open for the next request. */
  end(): void
  /** Closes in an orderly way (FIN) after what was written so far, wherever in the framing that is. */
  fin(): void
  /** Resets (RST) once what was written so far has left and had a moment to be read. */
  reset(): void
  /** From here on every byte is a write of its own. */
  bytewise(): void
  /** Calls once the kernel has taken everything written so far; not at all if the client leaves first. */
  drained(then: () => void): void
  /** Calls once, when the answer is over: `left` is true when the client left before its end was handed over. */
  onOver(then: (left: boolean) => void): void
  /** The answer is over, or the client is gone. */
  readonly over: boolean
  readonly headSent: boolean
  /** Bytes the kernel has not taken yet. */
  readonly queued: number
  /** Tokens whose last byte the kernel has taken. */
  readonly deliveredTokens: number
  readonly deliveredBytes: number
}

const reasons: Record<number, string> = {
  200: 'OK',
  204: 'No Content',
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  413: 'Content Too Large',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
  500: 'Internal Server Error',
  501: 'Not Implemented',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
}

/** Loopback delivers in microseconds; a peer that polls errors before data must still have read what came first. */
const resetDelayMs = 2
type Part = { data: Uint8Array; marks: readonly number[]; base: number }

export const createExchange = (
  socket: Socket<unknown>,
  request: HttpRequest,
  released: (keepAlive: boolean) => void,
) => {
  const parts: Part[] = []
  const waiting: (() => void)[] = []
  const listeners: ((left: boolean) => void)[] = []
  let pendingHead = ''
  let chunked = false
  let headSent = false
  let slow = false
  let trickling = false
  let over = false
  let queued = 0
  let deliveredTokens = 0
  let deliveredBytes = 0

  const finish = (left: boolean) => {
    if (over) return
    over = true
    parts.length = 0
    for (const then of listeners) then(left)
  }

  /** Books what the kernel took of the first part; true when that was all of it. */
  const took = (part: Part, count: number) => {
    const end = part.base + count
    deliveredBytes += count
    queued -= count
    let reached = 0
    while (reached < part.marks.length && (part.marks[reached] ?? 0) <= end) reached++
    deliveredTokens += reached
    part.marks = reached === 0 ? part.marks : part.marks.slice(reached)
    part.base = end
    part.data = part.data.subarray(count)
    return part.data.length === 0
  }

  const settle = () => {
    while (parts.length === 0 && !over) {
      const then = waiting.shift()
      if (then === undefined) return
      then()
    }
  }

  const trickle = () => {
    trickling = false
    const part = parts[0]
    if (over || part === undefined) return settle()
    const written = socket.write(part.data.subarray(0, 1))
    if (written < 0) return
    if (written > 0 && took(part, written)) parts.shift()
    if (written === 0) return
    trickling = true
    setImmediate(trickle)
  }

  const flush = () => {
    if (slow) {
      if (!trickling) trickle()
      return
    }
    for (let part = parts[0]; part !== undefined && !over; part = parts[0]) {
      const written = socket.write(part.data)
      if (written < 0) return
      if (!took(part, written)) return
      parts.shift()
    }
    settle()
  }

  const send = (data: string | Uint8Array, marks: readonly number[]) => {
    if (over) return
    let bytes = typeof data === 'string' ? Buffer.from(data) : data
    let offset = 0
    if (pendingHead !== '') {
      const head = Buffer.from(pendingHead, 'latin1')
      pendingHead = ''
      headSent = true
      offset = head.length
      bytes = Buffer.concat([head, bytes])
    }
    if (bytes.length === 0) return
    const empty = parts.length === 0
    queued += bytes.length
    parts.push({ data: bytes, marks, base: -offset })
    if (empty) flush()
  }

  const drained = (then: () => void) => {
    if (over) return
    waiting.push(then)
    if (parts.length === 0 && !trickling) settle()
  }

  const exchange: Exchange = {
    head(status, headers, length) {
      chunked = length === undefined && status !== 204
      let text = `HTTP/1.1 ${status} ${reasons[status] ?? 'Unknown'}\r\n`
      for (const [name, value] of Object.entries(headers)) text += `${name}: ${value}\r\n`
      if (chunked) text += 'Transfer-Encoding: chunked\r\n'
      else if (status !== 204) text += `Content-Length: ${length}\r\n`
      pendingHead = `${text}\r\n`
    },
    body(data, tokens = 0) {
      if (request.method === 'HEAD') return
      if (!chunked) return send(data, Array(tokens).fill(Buffer.byteLength(data)))
      const length = Buffer.byteLength(data)
      if (length === 0) return
      const start = `${length.toString(16)}\r\n`
      const bytes =
        typeof data === 'string'
          ? Buffer.from(`${start}${data}\r\n`)
          : Buffer.concat([Buffer.from(start), data, Buffer.from('\r\n')])
      send(bytes, tokens === 0 ? [] : Array(tokens).fill(bytes.length))
    },
    framed: send,
    raw: data => send(data, []),
    end() {
      send(chunked && request.method !== 'HEAD' ? '0\r\n\r\n' : '', [])
      const keepAlive = request.headers['connection']?.toLowerCase() !== 'close'
      drained(() => {
        finish(false)
        if (!keepAlive) socket.end()
        released(keepAlive)
      })
    },
    fin() {
      send('', [])
      drained(() => {
        finish(false)
        socket.end()
      })
    },
    reset() {
      drained(() => {
        if (deliveredBytes === 0) {
          finish(false)
          socket.terminate()
          return
        }
        setTimeout(() => {
          if (over) return
          finish(false)
          socket.terminate()
        }, resetDelayMs)
      })
    },
    bytewise() {
      slow = true
      socket.setNoDelay(true)
    },
    drained,
    onOver(then) {
      listeners.push(then)
    },
    get over() {
      return over
    },
    get headSent() {
      return headSent || pendingHead !== ''
    },
    get queued() {
      return queued
    },
    get deliveredTokens() {
      return deliveredTokens
    },
    get deliveredBytes() {
      return deliveredBytes
    },
  }
  return { exchange, flush, left: () => finish(true) }
}
