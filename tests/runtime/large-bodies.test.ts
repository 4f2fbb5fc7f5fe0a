import { afterEach, expect, setDefaultTimeout, test } from 'bun:test'
import { Worker } from 'node:worker_threads'
import { createLargeBodies } from '../../src/runtime/large-bodies.ts'

// A Worker gives way: beside other work it may take its time.
setDefaultTimeout(60_000)

const started: Worker[] = []
const bodies = createLargeBodies(() => {
  const worker = new Worker(new URL('../../src/runtime/body-worker.ts', import.meta.url))
  started.push(worker)
  return worker
})
afterEach(() => bodies.close())

/** Awaited by hand: `expect().rejects` holds up the loop that a Worker's answer comes by. */
const faultOf = (stream: ReadableStream) => new Response(stream).text().then(() => 'whole', String)

const utf8 = new TextEncoder()
const request = (content: string) => JSON.stringify({ model: 'm', messages: [{ role: 'user', content }] })

const translate = async (text: string, cutAt: number) => {
  const body = bodies.begin()
  const bytes = utf8.encode(text)
  body.add(bytes.slice(0, cutAt))
  body.add(bytes.slice(cutAt))
  const outline = await body.end()
  if (outline instanceof Uint8Array) throw new Error('given back')
  return { body, outline }
}

test('messages come back as they were, however the bytes were cut, as often as they are asked for', async () => {
  const content = 'Grüße 🙂 '.repeat(80_000)
  for (const cutAt of [1, 46, 47, 48, 500_001]) {
    const { body, outline } = await translate(request(content), cutAt)
    expect(outline.prepared.request.messages).toEqual([])
    for (let time = 0; time < 2; time++) {
      expect(await new Response(body.messages()).json()).toEqual([{ role: 'user', content }])
    }
    body.drop()
  }
})

test('a dropped body is gone: nothing of it is kept', async () => {
  const { body } = await translate(request('x'), 3)
  body.drop()
  expect(await faultOf(body.messages())).toContain('dropped')
})

test('adding gives the bytes away, and never those of another array', async () => {
  const shared = utf8.encode(`${request('x')}other`)
  const body = bodies.begin()
  body.add(shared.subarray(0, shared.length - 5))
  expect(new TextDecoder().decode(shared.subarray(-5))).toBe('other')
  const own = utf8.encode(' ')
  body.add(own)
  expect(own.length).toBe(0)
  expect(await body.end()).toHaveProperty('prepared')
  body.drop()
})

test('a Worker that dies fails the bodies it had, and the next one has another', async () => {
  const { body } = await translate(request('x'), 3)
  const half = bodies.begin()
  const unheard = half.end()
  const told = unheard.then(() => 'answered', String)
  await started.at(-1)?.terminate()
  expect(await told).toContain('ended')
  const lost = await translate(request('y'), 3)
  expect(await new Response(lost.body.messages()).json()).toEqual([{ role: 'user', content: 'y' }])
  expect(await faultOf(body.messages())).toContain('ended')
})
