import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import {
  bytewise,
  done,
  end,
  errorLine,
  garbage,
  line,
  pause,
  raw,
  reset,
  say,
  stall,
  status,
  think,
  toolCall,
  truncate,
  unlimited,
} from '../../src/simulator/script.ts'
import { type Simulator, startSimulator } from '../../src/simulator/simulator.ts'
import { open, parseAnswer, readUntilClosed, toRequest } from './wire.ts'

let ollama: Simulator
beforeAll(async () => {
  ollama = await startSimulator({ models: ['llama3.2'] })
})
afterEach(() => ollama.clear())
afterAll(() => ollama.close())

const messages = [{ role: 'user', content: 'Hello, world!' }]
const chatRequest = (extra: object = {}) =>
  toRequest('POST', '/api/chat', { model: 'llama3.2', messages, ...extra })
const chat = async (extra: object = {}) => {
  const exchanged = await readUntilClosed(ollama.port, [chatRequest(extra)])
  return { ...exchanged, ...parseAnswer(exchanged.bytes) }
}
const lines = (body: Buffer) =>
  body
    .toString()
    .split('\n')
    .filter(text => text !== '')
    .map(text => JSON.parse(text))
const last = () => ollama.generating().at(-1)

describe('what a script says', () => {
  test('text, thinking and calls each have a line, and the last line counts them and the end token', async () => {
    ollama.next(
      think('hm'),
      say('Hel'),
      say('lo'),
      toolCall({ name: 'f', arguments: { a: 1 }, id: 'call_x' }),
    )
    const { body, headers, complete } = await chat()
    expect(headers.get('content-type')).toBe('application/x-ndjson')
    expect(complete).toBe(true)
    const [thought, first, second, call, final] = lines(body)
    expect(thought.message).toEqual({ role: 'assistant', content: '', thinking: 'hm' })
    expect(first.message).toEqual({ role: 'assistant', content: 'Hel' })
    expect(second).toMatchObject({ model: 'llama3.2', message: { content: 'lo' }, done: false })
    expect(call.message.tool_calls).toEqual([
      { id: 'call_x', function: { index: 0, name: 'f', arguments: { a: 1 } } },
    ])
    expect(final).toMatchObject({ done: true, done_reason: 'stop', prompt_eval_count: 7, eval_count: 5 })
  })

  test('asked for a plain answer the same script is one object', async () => {
    ollama.next(think('hm'), say('Hel'), say('lo'), toolCall({ name: 'f' }))
    const { body, headers, complete } = await chat({ stream: false })
    expect(headers.get('content-type')).toBe('application/json; charset=utf-8')
    expect(complete).toBe(true)
    expect(JSON.parse(body.toString())).toMatchObject({
      message: { content: 'Hello', thinking: 'hm', tool_calls: [{ function: { name: 'f' } }] },
      done: true,
      eval_count: 5,
    })
  })

  test('generate speaks in `response`', async () => {
    ollama.next(say('Hi'), think('hm'))
    const request = toRequest('POST', '/api/generate', { model: 'llama3.2', prompt: 'Hello, world!' })
    const [first, second, final] = lines(
      parseAnswer((await readUntilClosed(ollama.port, [request])).bytes).body,
    )
    expect(first).toMatchObject({ response: 'Hi', done: false })
    expect(second).toMatchObject({ response: '', thinking: 'hm' })
    expect(final).toMatchObject({ done: true, prompt_eval_count: 5, eval_count: 3 })
    expect(final.context).toBeArray()
  })

  test('done says what it is told, and leaves out null and zero as Ollama does', async () => {
    ollama.next(
      say('Hi'),
      done({ prompt: 0, completion: 9, reason: null, eval_duration: 7, load_duration: null, x: 'y' }),
    )
    const final = lines((await chat()).body).at(-1)
    expect(final).toMatchObject({ done: true, eval_count: 9, eval_duration: 7, x: 'y' })
    for (const key of ['prompt_eval_count', 'done_reason', 'load_duration'])
      expect(final).not.toHaveProperty(key)
  })

  test('raw bytes and lines go out as they are', async () => {
    ollama.next(
      line({ model: 'z', done: false }),
      raw('{"a":'),
      raw('1}\n'),
      line({ done: true, eval_count: 4 }),
    )
    const { body, complete } = await chat()
    expect(body.toString()).toBe('{"model":"z","done":false}\n{"a":1}\n{"done":true,"eval_count":4}\n')
    expect(complete).toBe(true)
    expect(last()?.log).toMatchObject({ ended: 'done', completionTokens: 4 })
  })

  test('Ollama escapes what could end a script element, and so do we', async () => {
    ollama.next(say('</script>&\u2028'))
    expect((await chat()).body.toString()).toContain('"content":"\\u003c/script\\u003e\\u0026\\u2028"')
  })
})

describe('num_predict', () => {
  for (const stream of [true, false]) {
    test(`ends an answer at exactly that many tokens (stream ${stream})`, async () => {
      for (const limit of [1, 2, 3]) {
        ollama.next(say('a'), say('b'), say('c'), say('d'), reset())
        const { body } = await chat({ stream, options: { num_predict: limit } })
        const answers = lines(body)
        expect(answers.map(answer => answer.message.content).join('')).toBe('abcd'.slice(0, limit))
        expect(answers.at(-1)).toMatchObject({ done: true, done_reason: 'length', eval_count: limit })
      }
    })
  }

  test('one more than the text leaves room for the end token', async () => {
    ollama.next(say('a'), say('b'))
    const final = lines((await chat({ options: { num_predict: 3 } })).body).at(-1)
    expect(final).toMatchObject({ done_reason: 'stop', eval_count: 3 })
  })

  test('zero, negative and missing are no limit', async () => {
    for (const options of [{ num_predict: 0 }, { num_predict: -1 }, {}]) {
      ollama.next(say('a'), say('b'))
      expect(lines((await chat({ options })).body).at(-1)).toMatchObject({
        done_reason: 'stop',
        eval_count: 3,
      })
    }
  })

  test('a line of several tokens is cut where the limit falls', async () => {
    ollama.next(say('abcdef', 3))
    const answers = lines((await chat({ options: { num_predict: 2 } })).body)
    expect(answers.map(answer => answer.message.content)).toEqual(['abcd', ''])
    expect(answers.at(-1)).toMatchObject({ done_reason: 'length', eval_count: 2 })
  })

  test('an unlimited script ignores it', async () => {
    ollama.next(unlimited(), say('a'), say('b'))
    expect(lines((await chat({ options: { num_predict: 1 } })).body).at(-1)).toMatchObject({ eval_count: 3 })
  })
})

describe('how a script breaks', () => {
  test('reset is an RST after what was said', async () => {
    ollama.next(say('Hi'), reset())
    const { ended, complete, body } = await chat()
    expect([ended, complete]).toEqual(['reset', false])
    expect(body.toString()).toContain('"Hi"')
    expect(await last()?.closed).toBe('fault:reset')
  })

  test('reset as the first step sends nothing at all', async () => {
    ollama.next(reset())
    expect(await readUntilClosed(ollama.port, [chatRequest()])).toMatchObject({ ended: 'reset', reads: 0 })
  })

  test('truncate is a FIN inside a chunk and inside a line', async () => {
    for (const stream of [true, false]) {
      ollama.next(say('Hi'), truncate())
      const { ended, complete, body } = await chat({ stream })
      expect([ended, complete]).toEqual(['fin', false])
      expect(body.toString()).toEndWith('"cre')
      expect(await last()?.closed).toBe('fault:truncate')
    }
  })

  test('garbage is a whole body with a line that is not JSON', async () => {
    ollama.next(say('Hi'), garbage())
    const { complete, body } = await chat()
    expect(complete).toBe(true)
    expect(() => JSON.parse(body.toString().split('\n')[1] ?? '')).toThrow()
  })

  test('end without done is a whole body without counts', async () => {
    ollama.next(say('Hi'), end())
    const streamed = await chat()
    expect(streamed.complete).toBe(true)
    expect(lines(streamed.body)).toHaveLength(1)
    ollama.next(say('Hi'), end())
    const plain = JSON.parse((await chat({ stream: false })).body.toString())
    expect(plain).toMatchObject({ message: { content: 'Hi' }, done: false })
    expect(plain).not.toHaveProperty('eval_count')
    expect(await last()?.closed).toBe('fault:end')
  })

  test('an error is a line under 200, or a 500 for a plain answer', async () => {
    ollama.next(say('Hi'), errorLine('boom'))
    const streamed = await chat()
    expect([streamed.status, streamed.complete]).toEqual([200, true])
    expect(lines(streamed.body).at(-1)).toEqual({ error: 'boom' })
    ollama.next(say('Hi'), errorLine('boom'))
    const plain = await chat({ stream: false })
    expect(plain.status).toBe(500)
    expect(plain.body.toString()).toBe('{"error":"boom"}')
  })

  test('status answers with that status, body and headers', async () => {
    ollama.next(status(503, { error: 'busy' }, { 'Retry-After': '2' }))
    const answer = await chat()
    expect(answer.status).toBe(503)
    expect(answer.headers.get('retry-after')).toBe('2')
    expect(answer.body.toString()).toBe('{"error":"busy"}')
    expect(last()?.log).toMatchObject({ ended: 'fault:503', delivered: 0, completionTokens: null })
  })

  test('bytewise keeps every byte', async () => {
    ollama.next(
      say('日本'),
      say('x'),
      done({ prompt: 1, completion: 3, total_duration: 5, eval_duration: 5 }),
    )
    const whole = await chat()
    ollama.next(
      bytewise(),
      say('日本'),
      say('x'),
      done({ prompt: 1, completion: 3, total_duration: 5, eval_duration: 5 }),
    )
    const slow = await chat()
    const withoutTime = (text: string) => text.replaceAll(/"created_at":"[^"]*"/g, '')
    expect(withoutTime(slow.body.toString())).toBe(withoutTime(whole.body.toString()))
    expect(slow.complete).toBe(true)
    expect(slow.reads).toBeGreaterThan(20)
  })
})

describe('tests and scripts wait for each other', () => {
  test('a script stands at its pause until it is resumed', async () => {
    ollama.next(say('Hel'), pause(), say('lo'))
    const answer = chat()
    await ollama.reached()
    expect(last()?.delivered()).toMatchObject({ lines: 1, tokens: 1 })
    ollama.resume()
    expect((await answer).body.toString()).toContain('"lo"')
    expect(await last()?.closed).toBe('done')
  })

  test('pauses have names, several scripts can stand at one, and all go on together', async () => {
    ollama.forModel('llama3.2', pause('gate'), say('x'))
    const answers = [chat(), chat(), chat()]
    await ollama.reached('gate', 3)
    ollama.resume('elsewhere')
    expect(ollama.generating().every(({ log }) => log?.ended === null)).toBe(true)
    ollama.resume('gate')
    for (const { complete } of await Promise.all(answers)) expect(complete).toBe(true)
  })

  test('a resume that comes first is not lost', async () => {
    ollama.next(pause('early'), say('x'))
    ollama.resume('early')
    expect((await chat()).complete).toBe(true)
  })

  test('a client that leaves is reported with what it had got', async () => {
    for (const script of [
      [say('Hi'), say('you'), stall()],
      [say('Hi'), say('you'), pause('never')],
    ]) {
      ollama.clear()
      ollama.next(...script)
      const socket = await open(ollama.port, chatRequest())
      await new Promise(resolve => socket.once('data', resolve))
      socket.destroy()
      const [received] = await ollama.arrived()
      expect(await received?.closed).toBe('hung up')
      expect(received?.cancelled()).toBe(true)
      expect(received?.log).toMatchObject({ delivered: 2, completionTokens: null, hungUp: true })
    }
  })

  test('a client that leaves before the first byte is reported too', async () => {
    ollama.next(pause('before'), say('Hi'))
    const socket = await open(ollama.port, chatRequest())
    await ollama.reached('before')
    socket.destroy()
    expect(await last()?.closed).toBe('hung up')
    expect(last()?.log).toMatchObject({ delivered: 0, generated: 0, promptTokens: 7, ended: 'hung up' })
  })
})

describe('which script answers', () => {
  test('queued before standing, standing before fallback, each next for one request only', async () => {
    ollama.otherwise(say('fallback'))
    ollama.forModel('special', say('special'))
    ollama.next(say('queued'))
    const text = async (model: string) => lines((await chat({ model })).body)[0].message.content
    expect(await text('special')).toBe('queued')
    expect(await text('special:latest')).toBe('special')
    expect(await text('SPECIAL')).toBe('special')
    expect(await text('llama3.2')).toBe('fallback')
  })

  test('loading a model, listing and embedding take nothing from the queue', async () => {
    ollama.next(say('queued'))
    expect(JSON.parse((await chat({ messages: [] })).body.toString())).toMatchObject({ done_reason: 'load' })
    await readUntilClosed(ollama.port, [toRequest('GET', '/api/tags')])
    expect(lines((await chat()).body)[0].message.content).toBe('queued')
  })

  test('other endpoints have scripts of their own; what they leave open is answered as usual', async () => {
    ollama.nextAt('/api/tags', status(500, { error: 'no' }))
    ollama.nextAt('/api/tags', pause('tags'))
    const tags = async () =>
      parseAnswer((await readUntilClosed(ollama.port, [toRequest('GET', '/api/tags')])).bytes)
    expect((await tags()).status).toBe(500)
    const second = tags()
    await ollama.reached('tags')
    ollama.resume('tags')
    expect(JSON.parse((await second).body.toString()).models).toHaveLength(2)
    expect((await tags()).status).toBe(200)
  })
})

test('a request is kept as it came', async () => {
  ollama.next(say('x'))
  await readUntilClosed(ollama.port, [
    toRequest('POST', '/api/chat?q=1', { model: 'llama3.2', messages }, { 'X-Any': 'thing' }),
  ])
  expect(last()).toMatchObject({ method: 'POST', path: '/api/chat', body: { model: 'llama3.2', messages } })
  expect(last()?.headers['x-any']).toBe('thing')
  expect(last()?.query.get('q')).toBe('1')
  expect(JSON.parse(last()?.text ?? '')).toEqual({ model: 'llama3.2', messages })
})
