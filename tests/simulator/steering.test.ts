import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { type Simulator, startSimulator } from '../../src/simulator/simulator.ts'
import { parseSteering } from '../../src/simulator/steering.ts'
import { open, parseAnswer, readUntilClosed, toRequest } from './wire.ts'

let ollama: Simulator
beforeAll(async () => {
  ollama = await startSimulator()
})
afterAll(() => ollama.close())

const messages = [{ role: 'user', content: 'x' }]
const ask = async (model: string, extra: object = {}, path = '/api/chat') => {
  const exchanged = await readUntilClosed(ollama.port, [
    toRequest('POST', path, { model, messages, ...extra }),
  ])
  return { ...exchanged, ...parseAnswer(exchanged.bytes) }
}
const payloads = [' the', ' model', ' says\n', ' "q"', ' café', ' <b>', ' back\\slash', ' 日本']
const contents = (body: Buffer) =>
  body
    .toString()
    .split('\n')
    .filter(text => text.includes('"done":false'))
    .map(text => JSON.parse(text).message.content as string)

test('a name is read part by part, missing parts have their defaults', () => {
  expect(parseSteering('fake-c100-i20-d500-e0-b1-xr-k50')).toEqual({
    tokens: 100,
    intervalMs: 20,
    delayMs: 500,
    quietMs: 0,
    perWrite: 1,
    fault: 'r',
    faultAt: 50,
  })
  expect(parseSteering('fake')).toEqual({
    tokens: 100,
    intervalMs: 0,
    delayMs: 0,
    quietMs: 0,
    perWrite: undefined,
    fault: undefined,
    faultAt: 0,
  })
  expect(parseSteering('llama3.2')).toBeUndefined()
})

test('tokens come in order, each with its number and payload, and the counts are those asked for', async () => {
  const { body, complete } = await ask('fake-c1000-i0')
  const texts = contents(body)
  expect(texts).toHaveLength(1000)
  texts.forEach((text, index) => {
    const [number, rest = ''] = text.split('@')
    expect(number).toBe(String(index))
    expect(rest.replace(/^\d+/, '')).toBe(payloads[index & 7] ?? '')
  })
  expect(complete).toBe(true)
  expect(body.toString()).toContain('"prompt_eval_count":26')
  expect(body.toString()).toContain('"eval_count":1000')
  expect(ollama.log().at(-1)).toMatchObject({ delivered: 1000, completionTokens: 1000, ended: 'done' })
})

test('the moments in the tokens never go back', async () => {
  const moments = contents((await ask('fake-c50-i0')).body).map(text =>
    Number.parseInt(text.split('@')[1] ?? '', 10),
  )
  expect(moments.toSorted((a, b) => a - b)).toEqual(moments)
})

test('paced tokens come one a write, no faster than asked', async () => {
  const started = performance.now()
  const { reads } = await ask('fake-c10-i3')
  expect(performance.now() - started).toBeGreaterThanOrEqual(9 * 3 - 2)
  expect(reads).toBeGreaterThan(5)
})

test('delay comes before the header, quiet after it', async () => {
  const firstByteAfter = async (model: string) => {
    const started = performance.now()
    const socket = await open(ollama.port, toRequest('POST', '/api/chat', { model, messages }))
    const first = await new Promise<string>(resolve => socket.once('data', data => resolve(data.toString())))
    socket.destroy()
    return { ms: performance.now() - started, first }
  }
  expect((await firstByteAfter('fake-c1-d20')).ms).toBeGreaterThanOrEqual(18)
  expect((await firstByteAfter('fake-c1-e20')).first).toEndWith('\r\n\r\n')
})

test('num_predict ends it with length', async () => {
  const { body } = await ask('fake-c100-i0', { options: { num_predict: 7 } })
  expect(contents(body)).toHaveLength(7)
  expect(body.toString()).toContain('"done_reason":"length"')
  expect(body.toString()).toContain('"eval_count":7')
})

test('plain answers hold the same text', async () => {
  const answer = JSON.parse((await ask('fake-c9-i0', { stream: false })).body.toString())
  expect(answer.message.content.replaceAll(/\d+@\d+/g, '|')).toBe(`|${[...payloads, payloads[0]].join('|')}`)
  expect(answer).toMatchObject({ done: true, eval_count: 9, prompt_eval_count: 26 })
})

test("OpenAI's events carry the same, for comparing without a proxy", async () => {
  const streamed = (await ask('fake-c3-i0', { stream: true }, '/v1/chat/completions')).body.toString()
  expect(streamed.match(/^data: /gm)).toHaveLength(6)
  expect(streamed).toEndWith('data: [DONE]\n\n')
  const plain = JSON.parse((await ask('fake-c3-i0', {}, '/v1/chat/completions')).body.toString())
  expect(plain.usage).toEqual({ prompt_tokens: 26, completion_tokens: 3, total_tokens: 29 })
})

describe('faults happen before token k', () => {
  const cases = [
    ['r', 'fault:reset', 'reset', false],
    ['f', 'fault:truncate', 'fin', false],
    ['t', 'fault:truncate', 'fin', false],
    ['e', 'fault:error', 'fin', true],
    ['g', 'fault:garbage', 'fin', true],
    ['q', 'fault:end', 'fin', true],
  ] as const
  for (const [letter, ended, how, complete] of cases) {
    for (const at of [0, 5]) {
      test(`${letter} at ${at}`, async () => {
        const answer = await ask(`fake-c20-i0-x${letter}-k${at}`)
        expect(contents(answer.body.subarray(0, answer.body.lastIndexOf('\n') + 1))).toHaveLength(at)
        expect([answer.ended, answer.complete && answer.bytes.length > 0]).toEqual([how, complete])
        expect(ollama.log().at(-1)).toMatchObject({ ended, delivered: at, completionTokens: null })
      })
    }
  }

  test('h, n and u are 500, 404 and 503 at once', async () => {
    for (const [letter, status] of [
      ['h', 500],
      ['n', 404],
      ['u', 503],
    ] as const) {
      expect((await ask(`fake-c20-x${letter}`)).status).toBe(status)
      expect(ollama.log().at(-1)).toMatchObject({ ended: `fault:${status}`, delivered: 0 })
    }
  })

  test('s is silent until the client leaves', async () => {
    const socket = await open(
      ollama.port,
      toRequest('POST', '/api/chat', { model: 'fake-c20-i0-xs-k5', messages }),
    )
    await new Promise(resolve => socket.once('data', resolve))
    socket.destroy()
    await ollama.generating().at(-1)?.closed
    expect(ollama.log().at(-1)).toMatchObject({ ended: 'fault:stall', hungUp: true, delivered: 5 })
  })
})

test('a client that does not read costs bounded memory, and gets everything once it does', async () => {
  const request = toRequest('POST', '/api/chat', { model: 'fake-c200000-i0', messages })
  const arrived = ollama.arrived(ollama.generating().length + 1)
  const socket = await open(ollama.port, request)
  socket.pause()
  const received = (await arrived).at(-1)
  // One turn of the loop after its arrival it has written all it can, which is far from all.
  await new Promise(resolve => setImmediate(resolve))
  const { generated = 0 } = ollama.log().at(-1) ?? {}
  expect(generated).toBeLessThan(200_000)
  expect(generated - (received?.delivered().tokens ?? 0)).toBeLessThan(5000)
  let bytes = 0
  socket.on('data', data => {
    bytes += data.length
  })
  socket.resume()
  await new Promise(resolve => socket.once('close', resolve))
  expect(ollama.log().at(-1)).toMatchObject({ delivered: 200_000, ended: 'done' })
  expect(bytes).toBeGreaterThan(200_000 * 100)
})
