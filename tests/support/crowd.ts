/**
 * Many requests at once, each over a socket of its own: `fetch` would hold back all beyond its pool. What arrives is
 * noted with the instant of the test's clock, so that any minute's sum can be taken.
 */
import { connect } from 'node:net'
import { countPrompt } from '../../src/simulator/tokens.ts'

export type Sent = {
  /** 0 until the header has arrived, and for good where the connection broke before. */
  readonly status: number
  readonly headers: Headers
  /** The decoded body so far. */
  readonly body: string
  /** Output tokens so far: one a piece of text, and the end token where the model ended by itself. */
  readonly tokens: number
  /** The same with the prompt, each with the instant at which it was read. */
  readonly events: readonly { atMs: number; tokens: number }[]
  readonly finishReason: string | undefined
  /** Resolves when the connection is closed, by whichever side. */
  readonly over: Promise<void>
  leave: () => void
}

type Post = { path?: string; key: string; json: unknown } | { path: string; key: string; form: FormData }

const PIECE = /"(?:content|text|reasoning_content)":"(?:[^"\\]|\\.)+"/g

/** HTTP's chunked coding, as far as it has come. */
const decodeChunks = (raw: string): string => {
  let text = ''
  for (let at = 0; ; ) {
    const lineEnd = raw.indexOf('\r\n', at)
    if (lineEnd === -1) return text
    const length = Number.parseInt(raw.slice(at, lineEnd), 16)
    if (!(length > 0)) return text
    text += raw.slice(lineEnd + 2, lineEnd + 2 + length)
    at = lineEnd + 2 + length + 2
  }
}

const encode = async (post: Post): Promise<{ type: string; bytes: Uint8Array }> => {
  if ('json' in post)
    return { type: 'application/json', bytes: new TextEncoder().encode(JSON.stringify(post.json)) }
  const encoded = new Response(post.form)
  return {
    type: encoded.headers.get('content-type') ?? '',
    bytes: new Uint8Array(await encoded.arrayBuffer()),
  }
}

/** Sends one request; `now` dates what arrives. */
export const send = (url: string, post: Post, now: () => number = () => 0): Sent => {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  const over = Promise.withResolvers<void>()
  const events: { atMs: number; tokens: number }[] = []
  let raw = ''
  let bodyAt = -1
  let status = 0
  let headers = new Headers()
  let body = ''
  let noted = 0

  const finishReason = () => /"finish_reason":"(\w+)"/.exec(body)?.[1]
  const tokensSoFar = () =>
    (body.match(PIECE)?.length ?? 0) + (finishReason() === 'stop' && body.includes('[DONE]') ? 1 : 0)

  const readHead = () => {
    bodyAt = raw.indexOf('\r\n\r\n') + 4
    if (bodyAt === 3) return
    const [first = '', ...lines] = raw.slice(0, bodyAt - 4).split('\r\n')
    status = Number(first.split(' ')[1])
    headers = new Headers(
      lines.map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]),
    )
  }
  const read = () => {
    if (status === 0) readHead()
    if (status === 0) return
    const sent = raw.slice(bodyAt)
    body = headers.get('transfer-encoding') === 'chunked' ? decodeChunks(sent) : sent
    const isStream = headers.get('content-type')?.startsWith('text/event-stream') === true
    if (status !== 200 || !isStream) return
    const tokens = tokensSoFar()
    if (tokens === noted) return
    const prompt =
      events.length === 0 && 'json' in post ? countPrompt(post.json as Record<string, unknown>) : 0
    events.push({ atMs: now(), tokens: tokens - noted + prompt })
    noted = tokens
  }

  socket.setEncoding('utf8')
  socket.on('data', data => {
    raw += data
    read()
  })
  socket.on('error', () => undefined)
  socket.on('close', () => {
    over.resolve()
  })
  void encode(post).then(({ type, bytes }) => {
    socket.write(
      `POST ${post.path ?? '/v1/chat/completions'} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n` +
        `authorization: Bearer ${post.key}\r\ncontent-type: ${type}\r\ncontent-length: ${bytes.length}\r\n\r\n`,
    )
    socket.write(bytes)
  })

  return {
    get status() {
      return status
    },
    get headers() {
      return headers
    },
    get body() {
      return body
    },
    get tokens() {
      return noted
    },
    get finishReason() {
      return finishReason()
    },
    events,
    over: over.promise,
    leave: () => socket.destroy(),
  }
}

/** Waits for the end of each. */
export const allOver = (all: readonly Sent[]) => Promise.all(all.map(one => one.over))

export const withStatus = (all: readonly Sent[], status: number) => all.filter(one => one.status === status)

/** The most that fell into any 60 seconds, wherever they begin. */
export const mostInAnyMinute = (events: readonly { atMs: number; tokens: number }[]): number => {
  const inOrder = events.toSorted((a, b) => a.atMs - b.atMs)
  let most = 0
  let sum = 0
  let first = 0
  for (const event of inOrder) {
    sum += event.tokens
    while ((inOrder[first]?.atMs ?? Infinity) <= event.atMs - 60_000) sum -= inOrder[first++]?.tokens ?? 0
    most = Math.max(most, sum)
  }
  return most
}
