/** Requests that no well-behaved client sends: bytes as they are, over a socket of their own. */
import { connect } from 'node:net'

export type RawAnswer = { status: number; headers: Headers; body: string }

const parseAnswer = (text: string): RawAnswer => {
  const at = text.indexOf('\r\n\r\n')
  const [statusLine = '', ...lines] = text.slice(0, at === -1 ? undefined : at).split('\r\n')
  const headers = new Headers()
  for (const line of lines) {
    const colon = line.indexOf(':')
    if (colon > 0) headers.append(line.slice(0, colon), line.slice(colon + 1).trim())
  }
  const raw = at === -1 ? '' : text.slice(at + 4)
  const chunked = headers.get('transfer-encoding') === 'chunked'
  const body = chunked ? raw.replace(/^[0-9a-f]+\r\n|\r\n0\r\n\r\n$/gi, '') : raw
  return { status: Number(statusLine.split(' ')[1]), headers, body }
}

/**
 * Sends the pieces one after another, each as soon as the one before has left, and reads until the server closes or
 * `enough` says so. The connection is closed then; what was not sent by that time never is.
 */
export const sendRaw = (
  port: number,
  pieces: Iterable<string | Uint8Array>,
  { halfClose = false }: { halfClose?: boolean } = {},
): Promise<RawAnswer & { sentBytes: number }> =>
  new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    let text = ''
    let sentBytes = 0
    let over = false
    const finish = () => {
      if (over) return
      over = true
      socket.destroy()
      resolve({ ...parseAnswer(text), sentBytes })
    }
    const isWhole = () => {
      const at = text.indexOf('\r\n\r\n')
      const length = /content-length: *(\d+)/i.exec(text.slice(0, at))?.[1]
      if (at === -1) return false
      return length === undefined ? text.endsWith('\r\n0\r\n\r\n') : text.length >= at + 4 + Number(length)
    }
    socket.setEncoding('latin1')
    socket.on('data', data => {
      text += data
      if (isWhole()) finish()
    })
    socket.on('end', finish)
    socket.on('close', finish)
    socket.on('error', error => (text === '' ? reject(error) : finish()))
    socket.on('connect', async () => {
      for (const piece of pieces) {
        if (over) return
        sentBytes += piece.length
        if (!socket.write(piece)) await new Promise<void>(go => socket.once('drain', go).once('close', go))
      }
      if (halfClose && !over) socket.end()
    })
  })
