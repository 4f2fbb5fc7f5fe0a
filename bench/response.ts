/** HTTP/1.1 responses from a raw socket, one after another, as text of one-byte characters (latin1). */

export type ResponseHead = { status: number; keepAlive: boolean }

export type ResponseHandlers = {
  /** The header is complete. */
  head(head: ResponseHead): void
  /** A part of the body, without the transfer's framing. */
  body(text: string): void
  /** The response is complete. */
  end(): void
  /** What came is not HTTP. */
  fault(sentence: string): void
}

/** What is being read: a header, a body of known length or to the connection's end, or a part of a chunked body. */
type State = 'head' | 'length' | 'close' | 'size' | 'chunk' | 'after' | 'trailer'

export const createResponseReader = (handlers: ResponseHandlers) => {
  let state: State = 'head'
  /** What is not understood yet. */
  let pending = ''
  let left = 0

  const finish = () => {
    state = 'head'
    handlers.end()
  }

  const readHead = (text: string) => {
    const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(text)?.[1])
    if (!(status >= 100)) return handlers.fault(`not an HTTP response: ${text.slice(0, 80)}`)
    const length = /\r\ncontent-length: *(\d+)/i.exec(text)?.[1]
    const keepAlive = !/\r\nconnection: *close/i.test(text)
    const chunked = /\r\ntransfer-encoding: *chunked/i.test(text)
    handlers.head({ status, keepAlive: keepAlive && (chunked || length !== undefined) })
    left = Number(length ?? 0)
    if (chunked) state = 'size'
    else if (length === undefined) state = 'close'
    else if (left > 0) state = 'length'
    else finish()
  }

  /** One line up to CRLF, or undefined while its end is missing. */
  const takeLine = (end: string): string | undefined => {
    const at = pending.indexOf(end)
    if (at < 0) return undefined
    const line = pending.slice(0, at)
    pending = pending.slice(at + end.length)
    return line
  }

  const takeBody = (then: () => void) => {
    const text = pending.length > left ? pending.slice(0, left) : pending
    pending = pending.slice(text.length)
    left -= text.length
    handlers.body(text)
    if (left === 0) then()
  }

  /** False when more bytes are needed. */
  const step = (): boolean => {
    if (state === 'head') {
      const head = takeLine('\r\n\r\n')
      if (head !== undefined) readHead(head)
      return head !== undefined
    }
    if (state === 'close') {
      handlers.body(pending)
      pending = ''
    } else if (state === 'length') takeBody(finish)
    else if (state === 'chunk') {
      takeBody(() => {
        state = 'after'
      })
    } else {
      const line = takeLine('\r\n')
      if (line === undefined) return false
      if (state === 'after') state = 'size'
      else if (state === 'trailer') {
        if (line === '') finish()
      } else {
        left = Number.parseInt(line, 16)
        if (Number.isNaN(left)) handlers.fault(`not a chunk: ${line.slice(0, 40)}`)
        state = left > 0 ? 'chunk' : 'trailer'
      }
    }
    return true
  }

  return {
    push(text: string) {
      pending = pending === '' ? text : pending + text
      while (pending !== '' && step());
    },
    /** The connection is closed: true when that is how this response ends, or when none had begun. */
    closed(): boolean {
      if (state === 'close') finish()
      return state === 'head' && pending === ''
    },
  }
}
