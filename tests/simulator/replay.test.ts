import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { listCases, type Recording, readCase } from '../../src/simulator/replay.ts'
import { type Simulator, startSimulator } from '../../src/simulator/simulator.ts'
import { open, parseAnswer, readUntilClosed, toRequest } from './wire.ts'

const root = join(import.meta.dir, '../fixtures/captures')
const recordings = listCases(root).flatMap(name => readCase(root, name))

let ollama: Simulator
beforeAll(async () => {
  ollama = await startSimulator()
})
afterAll(() => ollama.close())

const requestOf = ({ name, method, path }: Recording) => {
  const {
    body,
    body_text: text,
    headers,
  } = JSON.parse(readFileSync(join(root, name, 'request.json'), 'utf8'))
  return toRequest(method, path, body ?? text, headers)
}
const bodyOf = ({ chunks }: Recording) => chunks.map(({ text }) => text).join('')

/** Sends one request and reads all; a recording whose client hung up is left as soon as its last byte is here. */
const exchange = async (recording: Recording) => {
  if (recording.ended !== 'client hung up') {
    const { bytes } = await readUntilClosed(ollama.port, [requestOf(recording)])
    return parseAnswer(bytes)
  }
  const arrived = ollama.arrived(ollama.generating().length + 1)
  const socket = await open(ollama.port, requestOf(recording))
  const received: Uint8Array[] = []
  const body = () => parseAnswer(Buffer.concat(received)).body
  const wanted = Buffer.byteLength(bodyOf(recording))
  if (wanted > 0) {
    await new Promise<void>(resolve =>
      socket.on('data', data => {
        received.push(Buffer.from(data))
        if (body().length >= wanted) resolve()
      }),
    )
  } else {
    await arrived
  }
  socket.destroy()
  return parseAnswer(Buffer.concat(received))
}

describe('every recording is served as it was taken', () => {
  for (const name of listCases(root)) {
    test(name, async () => {
      ollama.clear()
      ollama.replay(name)
      for (const recording of readCase(root, name)) {
        const answer = await exchange(recording)
        expect(answer.body.toString()).toBe(bodyOf(recording))
        if (recording.status === null) continue
        expect(answer.status).toBe(recording.status)
        if (recording.method !== 'HEAD') expect(answer.complete).toBe(recording.ended === 'complete')
        for (const [header, value] of Object.entries(recording.headers))
          expect(answer.headers.get(header.toLowerCase())).toBe(value)
        expect(answer.headers.has('date')).toBe(false)
      }
    })
  }
})

test('a recorded body equals the file beside its reads', () => {
  for (const recording of recordings.filter(({ streamed }) => streamed)) {
    const type = recording.headers['Content-Type']?.startsWith('text/event-stream') ? 'sse' : 'ndjson'
    expect(bodyOf(recording)).toBe(readFileSync(join(root, recording.name, `response.${type}`), 'utf8'))
  }
})

test('cut at any size, and byte by byte on the wire, a stream keeps its bytes', async () => {
  const [recording] = readCase(root, 'chat-utf8-stream')
  if (recording === undefined) throw new Error('recording missing')
  for (const cut of [1, 2, 3, 7, 64, 100_000, 'bytewise'] as const) {
    ollama.clear()
    ollama.replay('chat-utf8-stream', { cut })
    const { bytes } = await readUntilClosed(ollama.port, [requestOf(recording)])
    expect(parseAnswer(bytes)).toMatchObject({ complete: true })
    expect(parseAnswer(bytes).body.toString()).toBe(bodyOf(recording))
  }
})

test('with pace the reads keep their distances and the header waits for the first', async () => {
  ollama.clear()
  ollama.replay('chat-hello-stream', { pace: true })
  const [recording] = readCase(root, 'chat-hello-stream')
  if (recording === undefined) throw new Error('recording missing')
  const started = performance.now()
  const socket = await open(ollama.port, requestOf(recording))
  const first = await new Promise<number>(resolve => socket.once('data', () => resolve(performance.now())))
  await new Promise(resolve => socket.once('close', resolve))
  expect(first - started).toBeGreaterThanOrEqual(recording.chunks[0]?.ms ?? 0)
  expect(performance.now() - started).toBeGreaterThanOrEqual(recording.chunks.at(-1)?.ms ?? 0)
})

describe('answering by likeness', () => {
  const ask = async (path: string, body: unknown) => {
    const { bytes } = await readUntilClosed(ollama.port, [toRequest('POST', path, body)])
    return parseAnswer(bytes).body.toString()
  }
  const message = (content: string) => [{ role: 'user', content }]

  test('a request equal to a recorded one gets its recording, as often as it is asked', async () => {
    ollama.clear()
    ollama.replayAll()
    for (const recording of recordings) {
      if (!/^chat-[a-z-]+-stream$/.test(recording.name) || recording.status !== 200) continue
      const answer = await ask(recording.path, recording.body)
      expect(recordings.filter(other => bodyOf(other) === answer).map(({ body }) => body)).toContainEqual(
        recording.body,
      )
    }
  })

  test('further fields do not hide the likeness', async () => {
    const body = { model: 'scripted', messages: message('<|hello|>'), stream: true, keep_alive: 300 }
    expect(await ask('/api/chat', body)).toContain('"eval_count":5')
  })

  test('another text is answered by the models, or refused by them', async () => {
    const body = { model: 'scripted', messages: message('never recorded'), stream: true }
    expect(await ask('/api/chat', body)).toBe(`{"error":"model 'scripted' not found"}`)
  })
})

test('a name that was never recorded is an error at once', () => {
  expect(() => ollama.replay('no-such-case')).toThrow('no recording named no-such-case')
})
