/** A client that sees every byte: for what HTTP libraries hide, such as how a connection ends. */
import { connect, type Socket } from 'node:net'

export type Exchanged = { bytes: Buffer; reads: number; ended: 'reset' | 'fin' }

/** Sends bytes (in the given pieces) and reads until the server closes. */
export const readUntilClosed = (port: number, pieces: readonly (string | Uint8Array)[]): Promise<Exchanged> =>
  new Promise(resolve => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    const received: Uint8Array[] = []
    let ended: Exchanged['ended'] = 'fin'
    socket.on('data', data => received.push(Buffer.from(data)))
    socket.on('error', () => {
      ended = 'reset'
    })
    socket.on('close', () => resolve({ bytes: Buffer.concat(received), reads: received.length, ended }))
    // A turn of the loop between pieces, or the kernel would join them.
    const send = (index: number) => {
      const piece = pieces[index]
      if (piece === undefined) return
      socket.write(piece)
      setImmediate(send, index + 1)
    }
    send(0)
  })

/** A request as bytes; the connection closes after it unless told otherwise. */
export const toRequest = (
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
) => {
  const text = body === undefined ? '' : typeof body === 'string' ? body : JSON.stringify(body)
  const all = {
    Host: 'localhost',
    Connection: 'close',
    'Content-Length': String(Buffer.byteLength(text)),
    ...headers,
  }
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`)
  return Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n${text}`)
}

/** Splits an answer into header and body; `complete` says whether the framing came to its end. */
export const parseAnswer = (bytes: Buffer) => {
  const split = bytes.indexOf('\r\n\r\n')
  const [statusLine = '', ...lines] = bytes.subarray(0, split).toString('latin1').split('\r\n')
  const headers = new Map(
    lines.map(line => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 2)]),
  )
  const status = Number(statusLine.split(' ')[1])
  const rest = bytes.subarray(split + 4)
  if (headers.get('transfer-encoding') !== 'chunked') {
    return {
      status,
      headers,
      body: rest,
      complete: rest.length === Number(headers.get('content-length') ?? 0),
    }
  }
  const chunks: Buffer[] = []
  for (let at = 0; ; ) {
    const lineEnd = rest.indexOf('\r\n', at)
    const size = Number.parseInt(rest.toString('latin1', at, Math.max(at, lineEnd)), 16)
    const start = lineEnd + 2
    if (lineEnd < 0 || rest.length < start + size + 2) {
      return {
        status,
        headers,
        body: Buffer.concat([...chunks, rest.subarray(start, start + size)]),
        complete: false,
      }
    }
    if (size === 0) return { status, headers, body: Buffer.concat(chunks), complete: true }
    chunks.push(rest.subarray(start, start + size))
    at = start + size + 2
  }
}

/** Connects and sends, and leaves the rest to the test: reading, pausing, leaving. */
export const open = (port: number, request: Uint8Array): Promise<Socket> =>
  new Promise(resolve => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true }, () => {
      socket.write(request)
      resolve(socket)
    })
    socket.on('error', () => {})
  })
