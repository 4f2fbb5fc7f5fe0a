/**
 * The load generator: sends one kind of request over so many raw connections and checks every answer to the last
 * token. A process of its own, so that it measures nobody's work but the server's:
 *
 * `bun bench/load.ts '{"host":"127.0.0.1","port":8000,…}'` (LoadOrder) prints one line of JSON (LoadResult).
 */
import type { Socket } from 'bun'
import { sharedMicros } from '../src/simulator/clock.ts'
import { type AnswerCheck, createAnswerCheck, type Dialect } from './answer.ts'
import { createHistogram, type Spread } from './histogram.ts'
import { cpuMs, residentBytes } from './process.ts'
import { createResponseReader } from './response.ts'

export type LoadOrder = {
  host: string
  port: number
  path: string
  dialect: Dialect
  key?: string | undefined
  /** Headers of this server only. */
  headers?: Record<string, string>
  model: string
  stream: boolean
  /** No two requests have the same body; they are equally long. */
  unlike?: boolean
  /** In an answer; every one is checked. */
  tokens: number
  /** What a request must be answered with; answers of another kind than 200 are checked by their status only. */
  status: number
  connections: number
  /** New connections a second; all at once without it. */
  connectionsPerSecond?: number
  /** Requests that are checked but not measured. */
  warmUp: number
  /** Either so many requests, or as many as begin within so many seconds. */
  requests?: number
  seconds?: number
  /** The server's process, whose CPU time and memory are measured. */
  serverPid?: number | undefined
  /** The upstream's, to see whether it was the bottleneck. */
  upstreamPid?: number | undefined
}

export type LoadResult = {
  /** Measured answers that were right in every token. */
  right: number
  /** Requests (of the warm-up too) that were answered wrongly or not at all; the first few sentences. */
  wrong: number
  faults: string[]
  tokens: number
  seconds: number
  requestsPerSecond: number
  tokensPerSecond: number
  openMax: number
  /** In ms: whole answers; request to first token; a token's making to its arrival. */
  latency: Spread
  firstToken: Spread
  delay: Spread
  /** CPU seconds a second of wall time; undefined where it can't be known. */
  generatorBusy: number
  upstreamBusy: number | undefined
  serverBusy: number | undefined
  serverCpuUs: number | undefined
  residentBefore: number | undefined
  residentMax: number | undefined
  residentAfter: number | undefined
}

const FAULTS_MAX = 5
const SILENCE_MS = 60_000
const WATCH_MS = 100

const toRequest = (order: LoadOrder, turn = 0): Uint8Array => {
  const subject = order.unlike === true ? `proxy ${String(turn).padStart(9, '0')}` : 'proxy'
  const body = JSON.stringify({
    model: order.model,
    messages: [
      { role: 'system', content: 'You are helpful.' },
      { role: 'user', content: `Hello, tell me a short story about a ${subject}.` },
    ],
    stream: order.stream,
    ...(order.dialect === 'openai' ? { temperature: 0.7 } : { options: { temperature: 0.7 } }),
    ...(order.dialect === 'openai' && order.stream ? { stream_options: { include_usage: true } } : {}),
  })
  const headers = {
    Host: `${order.host}:${order.port}`,
    'Content-Type': 'application/json',
    Accept: '*/*',
    ...(order.key === undefined ? {} : { Authorization: `Bearer ${order.key}` }),
    ...order.headers,
    'Content-Length': String(Buffer.byteLength(body)),
  }
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  return Buffer.from(`POST ${order.path} HTTP/1.1\r\n${head.join('')}\r\n${body}`)
}

type Client = { received(text: string): void; writable(): void; left(): void; open(): void }

/** Runs the load to its end; never rejects for what a server does. */
export const runLoad = async (order: LoadOrder): Promise<LoadResult> => {
  const sameRequest = toRequest(order)
  const latency = createHistogram()
  const firstToken = createHistogram()
  const delay = createHistogram()
  const faults: string[] = []
  const { promise: finished, resolve: finish } = Promise.withResolvers<void>()
  const requests =
    order.requests ?? (order.seconds === undefined ? order.connections : Number.POSITIVE_INFINITY)

  let started = 0
  let right = 0
  let wrong = 0
  let tokens = 0
  let open = 0
  let openMax = 0
  let dialled = 0
  let arrivedUs = 0
  let lastSign = performance.now()
  let residentMax: number | undefined

  const usage = () => ({
    us: sharedMicros(),
    own: process.cpuUsage(),
    server: order.serverPid === undefined ? undefined : cpuMs(order.serverPid),
    upstream: order.upstreamPid === undefined ? undefined : cpuMs(order.upstreamPid),
  })
  const resident = () => (order.serverPid === undefined ? undefined : residentBytes(order.serverPid))
  const residentBefore = resident()
  let began = usage()

  const fail = (sentence: string) => {
    wrong++
    if (faults.length < FAULTS_MAX) faults.push(sentence)
  }

  const more = () => {
    if (order.seconds !== undefined && started > order.warmUp && arrivedUs - began.us > order.seconds * 1e6)
      return false
    return started < order.warmUp + requests
  }

  const createClient = (socket: Socket<{ client?: Client }>): Client => {
    let answering = false
    let measured = false
    let sentUs = 0
    let request = sameRequest
    let written = 0
    let hadToken = false
    let status = 0
    let keepAlive = true
    let check: AnswerCheck | undefined

    const write = () => {
      if (written >= request.length) return
      const count = socket.write(written === 0 ? request : request.subarray(written))
      if (count > 0) written += count
    }

    const begin = () => {
      measured = started >= order.warmUp
      if (started === order.warmUp) began = usage()
      if (order.unlike === true) request = toRequest(order, started)
      started++
      answering = true
      hadToken = false
      check = createAnswerCheck({
        dialect: order.dialect,
        stream: order.stream,
        tokens: order.tokens,
        onToken,
      })
      sentUs = sharedMicros()
      written = 0
      write()
    }

    const onToken = (madeUs: number) => {
      if (!measured) return
      tokens++
      if (!order.stream) return
      delay.add(arrivedUs - madeUs)
      if (!hadToken) firstToken.add(arrivedUs - sentUs)
      hadToken = true
    }

    const conclude = (fault: string | undefined) => {
      answering = false
      if (fault !== undefined) fail(fault)
      else if (measured) {
        right++
        latency.add(arrivedUs - sentUs)
      }
    }

    const reader = createResponseReader({
      head(head) {
        status = head.status
        keepAlive = head.keepAlive
      },
      body(text) {
        if (status === 200) check?.push(text)
      },
      end() {
        if (!answering) return fail('an answer without a request')
        const fault = status === order.status ? undefined : `status ${status} instead of ${order.status}`
        conclude(fault ?? (status === 200 ? check?.end() : undefined))
        if (keepAlive && more()) begin()
        else socket.end()
      },
      fault(sentence) {
        conclude(sentence)
        socket.terminate()
      },
    })

    return {
      open: begin,
      received: text => reader.push(text),
      writable: write,
      left() {
        reader.closed()
        if (answering) conclude('the connection was closed within an answer')
      },
    }
  }

  const dial = () => {
    open++
    openMax = Math.max(openMax, open)
    let over = false
    const leave = (client: Client | undefined) => {
      if (over) return
      over = true
      client?.left()
      open--
      // A server that closes after each answer gets a new connection; one that refuses them does not.
      if (client !== undefined && more()) dial()
      else if (open === 0 && dialled === order.connections) finish()
    }
    Bun.connect<{ client?: Client }>({
      hostname: order.host,
      port: order.port,
      data: {},
      socket: {
        open(socket) {
          socket.setNoDelay(true)
          if (!more()) return void socket.end()
          socket.data.client = createClient(socket)
          socket.data.client.open()
        },
        data(socket, bytes) {
          arrivedUs = sharedMicros()
          lastSign = performance.now()
          socket.data.client?.received(bytes.toString('latin1'))
        },
        drain: socket => socket.data.client?.writable(),
        end: socket => void socket.end(),
        close: socket => leave(socket.data.client),
        error: socket => leave(socket.data.client),
        connectError() {
          fail('no connection')
          leave(undefined)
        },
      },
    }).catch(() => undefined)
  }

  const perSecond = order.connectionsPerSecond
  const rampStarted = performance.now()
  const ramp = () => {
    const due =
      perSecond === undefined
        ? order.connections
        : Math.ceil(((performance.now() - rampStarted) / 1000) * perSecond)
    for (; dialled < Math.min(due, order.connections); dialled++) dial()
    if (dialled < order.connections) setTimeout(ramp, 1)
  }
  const watch = setInterval(() => {
    residentMax = Math.max(residentMax ?? 0, resident() ?? 0) || undefined
    if (performance.now() - lastSign < SILENCE_MS) return
    fail(`nothing came for ${SILENCE_MS / 1000} s, ${open} connections open`)
    finish()
  }, WATCH_MS)

  ramp()
  await finished
  clearInterval(watch)

  const ended = usage()
  const seconds = (ended.us - began.us) / 1e6
  const between = (before: number | undefined, after: number | undefined) =>
    before === undefined || after === undefined ? undefined : after - before
  const busy = (ms: number | undefined) => (ms === undefined ? undefined : ms / 1000 / seconds)
  const serverCpuMs = between(began.server, ended.server)
  const own = ended.own.user + ended.own.system - began.own.user - began.own.system
  return {
    right,
    wrong,
    faults,
    tokens,
    seconds,
    requestsPerSecond: right / seconds,
    tokensPerSecond: tokens / seconds,
    openMax,
    latency: latency.spread(),
    firstToken: firstToken.spread(),
    delay: delay.spread(),
    generatorBusy: own / 1e6 / seconds,
    upstreamBusy: busy(between(began.upstream, ended.upstream)),
    serverBusy: busy(serverCpuMs),
    serverCpuUs: serverCpuMs === undefined ? undefined : serverCpuMs * 1000,
    residentBefore,
    residentMax,
    residentAfter: resident(),
  }
}

if (import.meta.main) {
  console.log(JSON.stringify(await runLoad(JSON.parse(process.argv[2] ?? '{}') as LoadOrder)))
  process.exit(0)
}
