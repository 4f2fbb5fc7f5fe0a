/**
 * Clients that ask for a long stream and read a byte of it a second, in a process of its own:
 *
 * `bun bench/slow-clients.ts '{"port":8000,…}'` (SlowOrder) prints `coming`, then `begun` when every answer has, reads
 * on until SIGTERM, closes all and prints one line of JSON (SlowResult).
 *
 * The sockets are the C library's: a runtime's own read ahead what the kernel has. Linux only.
 */
import { dlopen, FFIType, ptr } from 'bun:ffi'

export type SlowOrder = {
  /** On 127.0.0.1. */
  port: number
  path: string
  key: string
  model: string
  clients: number
  /** New connections a second. */
  clientsPerSecond: number
}

export type SlowResult = { begun: number; bytesRead: number; wrong: number; faults: string[] }

const { i32, u32, u64, i64_fast, ptr: pointer } = FFIType
const openLibrary = () =>
  dlopen('libc.so.6', {
    socket: { args: [i32, i32, i32], returns: i32 },
    setsockopt: { args: [i32, i32, i32, pointer, u32], returns: i32 },
    connect: { args: [i32, pointer, u32], returns: i32 },
    send: { args: [i32, pointer, u64, i32], returns: i64_fast },
    recv: { args: [i32, pointer, u64, i32], returns: i64_fast },
    close: { args: [i32], returns: i32 },
  }).symbols

const AF_INET = 2
const SOCK_STREAM = 1
const SOL_SOCKET = 1
const SO_RCVBUF = 8
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000

const FAULTS_MAX = 5
const BEGUN = 'HTTP/1.1 200'
const TURN_MS = 20
const READ_EVERY_MS = 1000

const toRequest = ({ port, path, key, model }: SlowOrder) => {
  const body = JSON.stringify({ model, stream: true, messages: [{ role: 'user', content: 'A long story.' }] })
  return Buffer.from(
    `POST ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nAuthorization: Bearer ${key}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  )
}

/** Reads of `order.clients` streams until `over` aborts; `onBegun` is called when each has its status. */
export const readSlowly = async (
  order: SlowOrder,
  over: AbortSignal,
  onBegun: () => void,
): Promise<SlowResult> => {
  const libc = openLibrary()
  const request = toRequest(order)
  // struct sockaddr_in: family in the machine's order, port and address in the network's.
  const address = Buffer.alloc(16)
  address.writeUInt16LE(AF_INET, 0)
  address.writeUInt16BE(order.port, 2)
  address.set([127, 0, 0, 1], 4)
  // The kernel makes the smallest buffer of it that it has, 2.3 KB.
  const smallest = new Int32Array([1])
  const byte = new Uint8Array(1)
  type Client = { socket: number; head: string; readAt: number }
  const sockets: number[] = []
  const reading = new Set<Client>()
  const result: SlowResult = { begun: 0, bytesRead: 0, wrong: 0, faults: [] }

  const fail = (sentence: string) => {
    result.wrong++
    if (result.faults.length < FAULTS_MAX) result.faults.push(`slow client: ${sentence}`)
  }

  const dial = (nowMs: number) => {
    const socket = libc.socket(AF_INET, SOCK_STREAM, 0)
    libc.setsockopt(socket, SOL_SOCKET, SO_RCVBUF, ptr(smallest), smallest.byteLength)
    const connected = libc.connect(socket, ptr(address), address.length) === 0
    const sent = connected && libc.send(socket, ptr(request), request.length, MSG_NOSIGNAL) === request.length
    sockets.push(socket)
    if (sent) reading.add({ socket, head: '', readAt: nowMs })
    else fail('no connection')
  }

  const end = (client: Client, sentence: string) => {
    reading.delete(client)
    fail(sentence)
  }

  /** The status as it comes, then a byte when it is time for one. */
  const readOne = (client: Client, nowMs: number) => {
    const waits = client.head.length === BEGUN.length
    if (waits && nowMs - client.readAt < READ_EVERY_MS) return
    client.readAt = nowMs
    do {
      const count = libc.recv(client.socket, ptr(byte), 1, MSG_DONTWAIT)
      // Below zero there is nothing to read yet.
      if (count < 0) return
      if (count === 0) return end(client, `closed after: ${client.head}`)
      result.bytesRead++
      if (waits) return
      client.head += String.fromCharCode(byte[0] ?? 0)
    } while (client.head.length < BEGUN.length)
    if (client.head === BEGUN) result.begun++
    else end(client, `answered: ${client.head}`)
  }

  const began = performance.now()
  let told = false
  while (!over.aborted) {
    const nowMs = performance.now()
    const due = Math.min(order.clients, ((nowMs - began) / 1000) * order.clientsPerSecond + 1)
    while (sockets.length < Math.floor(due)) dial(nowMs)
    for (const client of reading) readOne(client, nowMs)
    if (!told && result.begun + result.wrong >= order.clients) {
      told = true
      onBegun()
    }
    await Bun.sleep(TURN_MS)
  }
  for (const socket of sockets) libc.close(socket)
  return result
}

if (import.meta.main) {
  const over = new AbortController()
  process.on('SIGTERM', () => over.abort())
  console.log('coming')
  const order = JSON.parse(process.argv[2] ?? '{}') as SlowOrder
  const result = await readSlowly(order, over.signal, () => console.log('begun'))
  console.log(JSON.stringify(result))
  process.exit(0)
}
