import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Simulator, startSimulator } from '../../src/simulator/simulator.ts'
import { open, parseAnswer, readUntilClosed, toRequest } from './wire.ts'

let ollama: Simulator
beforeAll(async () => {
  ollama = await startSimulator({
    models: [
      'demo',
      'thinker',
      'tooler',
      'lumpy',
      'embedder',
      { name: 'plain', capabilities: ['completion'] },
    ],
  })
})
afterAll(() => ollama.close())

type Answer = { status: number; text: string; lines: Record<string, never>[] }
const ask = async (method: string, path: string, body?: unknown): Promise<Answer> => {
  const answer = parseAnswer((await readUntilClosed(ollama.port, [toRequest(method, path, body)])).bytes)
  const text = answer.body.toString()
  const json = answer.headers.get('content-type')?.includes('json')
  const lines = json
    ? text
        .split('\n')
        .filter(Boolean)
        .map(one => JSON.parse(one))
    : []
  return { status: answer.status, text, lines }
}
const chat = (model: string, extra: object = {}, content = 'Tell me something.') =>
  ask('POST', '/api/chat', { model, messages: [{ role: 'user', content }], ...extra })
const recorded = (name: string) =>
  JSON.parse(readFileSync(join(import.meta.dir, '../fixtures/captures', name, 'response.json'), 'utf8'))

describe('the catalogue has the shape of a real one', () => {
  const keysOf = (value: object) => Object.keys(value).sort()

  test('tags', async () => {
    const { models } = JSON.parse((await ask('GET', '/api/tags')).text)
    const [real] = recorded('tags').models
    expect(keysOf(models[0])).toEqual(keysOf(real))
    expect(keysOf(models[0].details)).toEqual(keysOf(real.details))
    expect(models.map(({ name }: { name: string }) => name)).toContain('demo:latest')
  })

  test('show names capabilities and the context under the architecture', async () => {
    const shown = JSON.parse((await ask('POST', '/api/show', { model: 'thinker' })).text)
    const real = recorded('show-thinking')
    expect(shown.capabilities).toEqual(real.capabilities)
    expect(shown.model_info[`${shown.model_info['general.architecture']}.context_length`]).toBe(8192)
    const missing = keysOf(real).filter(key => !(key in shown))
    expect(missing.filter(key => !['tensors', 'parameters'].includes(key))).toEqual([])
  })

  test('ps lists what has answered until it is unloaded', async () => {
    await chat('demo')
    const { models } = JSON.parse((await ask('GET', '/api/ps')).text)
    expect(keysOf(models[0])).toEqual(keysOf(recorded('ps-loaded/4-ps').models[0]))
    const unload = await ask('POST', '/api/chat', { model: 'demo', messages: [], keep_alive: 0 })
    expect(unload.text).toContain('"done_reason":"unload"')
    expect((await ask('GET', '/api/ps')).text).not.toContain('demo:latest')
  })

  test('version, liveness, unknown path, wrong method', async () => {
    expect((await ask('GET', '/api/version')).text).toBe('{"version":"0.0.0"}')
    expect((await ask('GET', '/')).text).toBe('Ollama is running')
    expect(await ask('HEAD', '/')).toMatchObject({ status: 200, text: '' })
    expect(await ask('GET', '/api/nothing')).toMatchObject({ status: 404, text: '404 page not found' })
    expect(await ask('GET', '/api/chat')).toMatchObject({ status: 405, text: '405 method not allowed' })
  })
})

describe('refusals are those of a real Ollama, to the byte', () => {
  const cases = [
    'chat-unknown-model',
    'chat-empty-model',
    'chat-no-body',
    'chat-invalid-json',
    'chat-options-list',
    'chat-content-parts',
    'chat-bad-keep-alive',
    'chat-stop-string-type',
    'chat-temperature-string',
    'chat-think-bad-word',
    'chat-format-unknown-word',
    'chat-top-logprobs-too-many',
    'chat-image-bad-base64',
    'chat-tools-unsupported',
    'chat-on-embedding-model',
    'chat-think-unsupported',
    'generate-empty-model',
    'generate-unknown-model',
    'generate-on-embedding-model',
    'embed-unknown-model',
    'embed-tokens',
    'embed-array-with-empty',
    'embed-empty-string',
    'embed-empty-array',
    'show-unknown-model',
    'show-empty-model',
  ]
  for (const name of cases) {
    test(name, async () => {
      const folder = join(import.meta.dir, '../fixtures/captures', name)
      const {
        method,
        path,
        body,
        body_text: text,
      } = JSON.parse(readFileSync(join(folder, 'request.json'), 'utf8'))
      const { status } = JSON.parse(readFileSync(join(folder, 'response.headers.json'), 'utf8'))
      ollama.catalogue.add({ name: 'scripted', capabilities: ['completion', 'tools'] })
      const answer = await ask(method, path, body ?? text)
      ollama.catalogue.remove('scripted')
      expect(answer).toMatchObject({ status, text: readFileSync(join(folder, 'response.json'), 'utf8') })
    })
  }
})

describe('canned models', () => {
  test('the same request has the same answer, streamed or not', async () => {
    const streamed = await chat('demo')
    const text = streamed.lines
      .map((line: { message?: { content: string } }) => line.message?.content)
      .join('')
    const plain = JSON.parse((await chat('demo', { stream: false })).text)
    expect(plain.message.content).toBe(text)
    expect(plain.eval_count).toBe(streamed.lines.length)
    expect(streamed.lines.at(-1)).toMatchObject({ eval_count: streamed.lines.length, prompt_eval_count: 8 })
  })

  test('a prompt can ask for a length, and num_predict cuts it', async () => {
    expect((await chat('demo', {}, '[[tokens:100]] please')).lines.at(-1)).toMatchObject({ eval_count: 101 })
    const cut = await chat('demo', { options: { num_predict: 40 } }, '[[tokens:100]] please')
    expect(cut.lines).toHaveLength(41)
    expect(cut.lines.at(-1)).toMatchObject({ eval_count: 40, done_reason: 'length' })
  })

  test('a thinker thinks unless told not to', async () => {
    expect(JSON.parse((await chat('thinker', { stream: false })).text).message.thinking).toBeString()
    expect(
      JSON.parse((await chat('thinker', { stream: false, think: false })).text).message,
    ).not.toHaveProperty('thinking')
  })

  test('a tooler calls the first tool with arguments of the right types, and talks once it has the answer', async () => {
    const parameters = {
      type: 'object',
      properties: {
        city: { type: 'string' },
        days: { type: 'integer' },
        unit: { enum: ['C', 'F'] },
        list: { type: 'array', items: { type: 'boolean' } },
      },
    }
    const tools = [{ type: 'function', function: { name: 'weather', parameters } }]
    const { message } = JSON.parse((await chat('tooler', { stream: false, tools })).text)
    const call = message.tool_calls[0]
    expect(call.function.name).toBe('weather')
    expect(call.id).toMatch(/^call_[a-z0-9]{8}$/)
    const { city, days, unit, list } = call.function.arguments
    expect([typeof city, Number.isInteger(days), ['C', 'F'].includes(unit), typeof list[0]]).toEqual([
      'string',
      true,
      true,
      'boolean',
    ])
    const messages = [{ role: 'user', content: 'Weather?' }, message, { role: 'tool', content: 'Rain' }]
    expect(
      JSON.parse((await chat('tooler', { stream: false, tools, messages })).text).message,
    ).not.toHaveProperty('tool_calls')
  })

  test('lumpy lines hold several tokens and the count is of tokens', async () => {
    const { lines } = await chat('lumpy', {}, '[[tokens:60]]')
    expect(lines.length - 1).toBeLessThan(60)
    expect(lines.at(-1)).toMatchObject({ eval_count: 61 })
    expect(ollama.log().at(-1)).toMatchObject({
      model: 'lumpy',
      delivered: 60,
      generated: 61,
      completionTokens: 61,
    })
  })

  test('format gives JSON that fits', async () => {
    const schema = { type: 'object', properties: { n: { type: 'number' }, ok: { type: 'boolean' } } }
    const typed = JSON.parse(
      JSON.parse((await chat('demo', { stream: false, format: schema })).text).message.content,
    )
    expect([typeof typed.n, typeof typed.ok]).toEqual(['number', 'boolean'])
    const free = JSON.parse((await chat('demo', { stream: false, format: 'json' })).text)
    expect(JSON.parse(free.message.content)).toBeObject()
  })

  test('a stop string ends the text before it, also when it spans pieces; its tokens count', async () => {
    const whole = JSON.parse((await chat('demo', { stream: false })).text).message.content as string
    const stop = whole.slice(30, 45)
    const { lines } = await chat('demo', { options: { stop: [stop] } })
    const text = lines.map((line: { message?: { content: string } }) => line.message?.content).join('')
    expect(text).toBe(whole.slice(0, whole.indexOf(stop)))
    const final: { done_reason?: string; eval_count?: number } = lines.at(-1) ?? {}
    expect(final.done_reason).toBe('stop')
    expect(final.eval_count).toBeGreaterThan(lines.length - 1)
  })

  test('a prompt longer than the context is cut in silence, or refused', async () => {
    const long = 'word '.repeat(9000)
    expect((await chat('demo', {}, long)).lines.at(-1)).toMatchObject({ prompt_eval_count: 8192 })
    expect(await chat('demo', { truncate: false }, long)).toMatchObject({
      status: 400,
      text: '{"error":"the input length exceeds the context length"}',
    })
  })
})

describe('embeddings', () => {
  const embed = async (input: unknown, extra: object = {}) =>
    JSON.parse((await ask('POST', '/api/embed', { model: 'embedder', input, ...extra })).text)

  test('unit vectors, equal for equal texts, one sum of tokens', async () => {
    const { embeddings, prompt_eval_count: tokens } = await embed(['abc', 'two words', 'abc'])
    expect(embeddings[0]).toEqual(embeddings[2])
    expect(embeddings[0]).not.toEqual(embeddings[1])
    for (const vector of embeddings) expect(Math.hypot(...vector)).toBeCloseTo(1, 5)
    expect(tokens).toBe(4)
  })

  test('dimensions cut and make a unit again; too many are ignored', async () => {
    const short = await embed('abc', { dimensions: 8 })
    expect(short.embeddings[0]).toHaveLength(8)
    expect(Math.hypot(...short.embeddings[0])).toBeCloseTo(1, 5)
    expect((await embed('abc', { dimensions: 999 })).embeddings[0]).toHaveLength(32)
  })
})

describe("the simulator's own account", () => {
  test('each generating request has an entry, found by its tag', async () => {
    await chat('demo', {}, 'Hello [[tag:abc-123]] [[tokens:5]]')
    const { entries } = JSON.parse((await ask('GET', '/__log?after=0')).text)
    expect(entries.at(-1)).toMatchObject({
      model: 'demo',
      requestTag: 'abc-123',
      delivered: 5,
      generated: 6,
      completionTokens: 6,
      ended: 'done',
      hungUp: false,
    })
    const { seq } = entries.at(-1)
    expect(JSON.parse((await ask('GET', `/__log?after=${seq}`)).text).entries).toEqual([])
    expect(JSON.parse((await ask('GET', `/__log?after=${seq - 2}&limit=1`)).text).entries).toHaveLength(1)
    expect(JSON.parse((await ask('GET', '/__stats')).text)).toMatchObject({ running: 0, dropped: 0 })
  })

  test('a refused request has none', async () => {
    const before = ollama.log().length
    await chat('nobody')
    expect(ollama.log()).toHaveLength(before)
  })

  test('a client that leaves a paced answer stops it', async () => {
    const slow = await startSimulator({ models: ['demo'], msPerToken: 2 })
    const body = { model: 'demo', messages: [{ role: 'user', content: '[[tokens:5000]]' }] }
    const socket = await open(slow.port, toRequest('POST', '/api/chat', body))
    await new Promise(resolve => socket.once('data', resolve))
    socket.destroy()
    const [received] = await slow.arrived()
    expect(await received?.closed).toBe('hung up')
    const { delivered, generated, completionTokens } = slow.log()[0] ?? {}
    expect(completionTokens).toBeNull()
    expect(delivered).toBe(generated)
    expect(generated).toBeLessThan(100)
    await slow.close()
  })

  test('a forgetful log says how many entries it dropped', async () => {
    const small = await startSimulator({ models: ['demo'], keepLog: 10 })
    for (let index = 0; index < 25; index++) {
      const body = { model: 'demo', messages: [{ role: 'user', content: '[[tokens:1]]' }] }
      await readUntilClosed(small.port, [toRequest('POST', '/api/chat', body)])
    }
    const log = small.log()
    expect(log.at(-1)?.seq).toBe(25)
    expect(log.length + small.stats().dropped).toBe(25)
    await small.close()
  })
})

describe('probable faults', () => {
  const run = async (seed: number) => {
    const faulty = await startSimulator({
      models: ['demo'],
      faults: {
        probability: 0.5,
        seed,
        kinds: ['reset', 'truncate', 'garbage', 'end', 'error', '500', '503'],
      },
    })
    const endings: string[] = []
    for (let index = 0; index < 40; index++) {
      const body = { model: 'demo', messages: [{ role: 'user', content: '[[tokens:9]]' }] }
      await readUntilClosed(faulty.port, [toRequest('POST', '/api/chat', body)])
      const [entry] = faulty.log().slice(-1)
      endings.push(`${entry?.ended} ${entry?.delivered}`)
    }
    await faulty.close()
    return endings
  }

  test('come in an order given by the seed, about as often as asked', async () => {
    const endings = await run(7)
    expect(await run(7)).toEqual(endings)
    expect(await run(8)).not.toEqual(endings)
    const faults = endings.filter(ended => ended.startsWith('fault:'))
    expect(faults.length).toBeGreaterThan(10)
    expect(faults.length).toBeLessThan(30)
    expect(new Set(faults.map(ended => ended.split(' ')[0])).size).toBeGreaterThan(4)
  })
})
