/**
 * Bad input: each case gets an error that the OpenAI SDKs can read, costs nothing (no row, nothing generated, no
 * request counted), and leaves the server well.
 */
import { describe, expect, test } from 'bun:test'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { done, say } from '../../src/simulator/script.ts'
import { type ErrorBody, errorBody } from '../support/contract.ts'
import { type RawAnswer, sendRaw } from '../support/raw-http.ts'
import { hello, historyOf, startSession } from '../support/session.ts'

const CHAT = '/v1/chat/completions'
const MB = 1024 * 1024
const limits = {
  requests_per_minute: 1000,
  requests_per_day: null,
  tokens_per_minute: 1_000_000,
  tokens_per_day: null,
  total_token_limit: 1_000_000,
}
const chat = { model: 'm', messages: hello }
const jsonType = { 'content-type': 'application/json' }

const startBad = async (options: Parameters<typeof startSession>[0] = {}) => {
  const { ollama, proxy } = await startSession(options)
  const key = await proxy.createUser('alice', limits)
  const head = (fields: Record<string, string>, path = CHAT, method = 'POST') =>
    [
      `${method} ${path} HTTP/1.1`,
      'host: localhost',
      `authorization: Bearer ${key}`,
      ...Object.entries(fields).map(([name, value]) => `${name}: ${value}`),
      '',
      '',
    ].join('\r\n')

  return {
    ollama,
    proxy,
    key,
    head,
    raw: (body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = jsonType, path = CHAT) =>
      proxy.call(path, { key, method: 'POST', body, headers }),
    post: (json: unknown, path = CHAT) => proxy.call(path, { key, json }),
    /** Nothing was spent, and the next good request is served. */
    async expectUnharmed() {
      expect(ollama.generating()).toHaveLength(0)
      expect(await historyOf(proxy, key)).toHaveLength(0)
      const { current } = (await (await proxy.call('/v1/limits', { key })).json()) as {
        current: Record<string, { used: number; reserved: number }>
      }
      expect(Object.values(current).every(({ used, reserved }) => used === 0 && reserved === 0)).toBe(true)
      expect(proxy.server.inFlight).toBe(0)
      ollama.next(say('well'), done())
      const good = await proxy.call(CHAT, { key, json: chat })
      expect(good.status).toBe(200)
      expect(await good.text()).toContain('"content":"well"')
    },
  }
}
type Bad = Awaited<ReturnType<typeof startBad>>

const errorOf = async (answer: Response): Promise<ErrorBody['error']> => {
  expect(answer.headers.get('content-type')).toStartWith('application/json')
  expect(answer.headers.get('x-request-id')).toMatch(/^req_/)
  const text = await answer.text()
  expect(text.length).toBeLessThan(2000)
  const { error } = errorBody.parse(JSON.parse(text))
  expect(error.message).not.toMatch(/\bat .*:\d+:\d+|\.ts\b|SyntaxError|undefined|node_modules/)
  return error
}

const rawErrorOf = ({ headers, body }: RawAnswer): ErrorBody['error'] => {
  expect(headers.get('content-type')).toStartWith('application/json')
  return errorBody.parse(JSON.parse(body)).error
}

const nested = (depth: number, open: string, close: string) => open.repeat(depth) + close.repeat(depth)
const withMessages = (content: string) => `{"model":"m","messages":[{"role":"user","content":${content}}]}`

describe('a body that is no request', () => {
  type Case = [
    name: string,
    send: (bad: Bad) => Promise<Response>,
    status: number,
    param: string | null,
    code: string | null,
  ]
  const cases: Case[] = [
    [
      'no body',
      bad => bad.proxy.call(CHAT, { key: bad.key, method: 'POST', headers: jsonType }),
      400,
      null,
      null,
    ],
    ['an empty body', bad => bad.raw(''), 400, null, null],
    ['no JSON', bad => bad.raw('model=m&messages=hi'), 400, null, null],
    [
      'JSON cut short',
      bad => bad.raw('{"model":"m","messages":[{"role":"user","content":"hi'),
      400,
      null,
      null,
    ],
    ['JSON with something behind it', bad => bad.raw(`${JSON.stringify(chat)} x`), 400, null, null],
    ['a list', bad => bad.post([chat]), 400, null, 'invalid_type'],
    ['null', bad => bad.raw('null'), 400, null, 'invalid_type'],
    ['a text', bad => bad.raw('"hi"'), 400, null, 'invalid_type'],
    ['a number', bad => bad.raw('1e999'), 400, null, 'invalid_type'],
    ['an object of nothing', bad => bad.post({}), 400, 'model', 'missing_required_parameter'],
    [
      'bytes that are no UTF-8',
      bad => bad.raw(new Uint8Array([123, 34, 255, 254, 34, 58, 49, 125])),
      400,
      null,
      null,
    ],
    ['NUL bytes', bad => bad.raw(`\0${JSON.stringify(chat)}`), 400, null, null],
    ['NUL bytes inside', bad => bad.raw('{"model":"m\0","messages":[]}'), 400, null, null],
    [
      'a form',
      bad => bad.raw('model=m', { 'content-type': 'application/x-www-form-urlencoded' }),
      415,
      null,
      'unsupported_media_type',
    ],
    [
      'a model name of 1 MB',
      bad => bad.post({ ...chat, model: 'm'.repeat(MB) }),
      400,
      'model',
      'invalid_value',
    ],
    ['a model name with NUL', bad => bad.post({ ...chat, model: 'm\0' }), 400, 'model', 'invalid_value'],
    [
      'an empty model name',
      bad => bad.post({ ...chat, model: '' }),
      400,
      'model',
      'missing_required_parameter',
    ],
    ['a model that is a number', bad => bad.post({ ...chat, model: 7 }), 400, 'model', 'invalid_type'],
    [
      'messages of the wrong type',
      bad => bad.post({ model: 'm', messages: 'hi' }),
      400,
      'messages',
      'invalid_type',
    ],
    ['no messages at all', bad => bad.post({ model: 'm', messages: [] }), 400, 'messages', 'empty_array'],
    [
      '10,000 messages',
      bad => bad.post({ model: 'm', messages: Array(10_000).fill(hello[0]) }),
      400,
      'messages',
      'array_above_max_length',
    ],
    [
      'a message that is a number',
      bad => bad.post({ model: 'm', messages: [...hello, 1] }),
      400,
      'messages[1]',
      'invalid_type',
    ],
    [
      'a role that is none',
      bad => bad.post({ model: 'm', messages: [{ role: 'boss', content: 'x' }] }),
      400,
      'messages[0].role',
      'invalid_value',
    ],
    ['half a character', bad => bad.raw(withMessages('"\\ud800"')), 400, null, 'invalid_value'],
    [
      'half a character in a key',
      bad => bad.raw('{"model":"m","messages":[{"role":"user","content":"x","\\udfff":1}]}'),
      400,
      null,
      'invalid_value',
    ],
    [
      'half a character, written backwards',
      bad => bad.raw(withMessages('"\\ude00\\ud83d"')),
      400,
      null,
      'invalid_value',
    ],
    [
      'lists nested 100,000 deep',
      bad => bad.raw(withMessages(nested(100_000, '[', ']'))),
      400,
      'messages[0].content[0]',
      'invalid_type',
    ],
    [
      'objects nested 100,000 deep in a message',
      bad => bad.raw(withMessages(`${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}`)),
      400,
      'messages[0].content',
      'invalid_type',
    ],
    [
      'half a character 100,000 lists deep',
      bad =>
        bad.raw(
          `{"model":"m","messages":[],"nonsense":${'['.repeat(100_000)}"\\ud800"${']'.repeat(100_000)}}`,
        ),
      400,
      null,
      null,
    ],
    [
      'a schema nested 10,000 deep',
      bad =>
        bad.raw(
          `{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f","parameters":${'{"properties":'.repeat(10_000)}{}${'}'.repeat(10_000)}}}]}`,
        ),
      400,
      'tools[0].function.parameters',
      'invalid_value',
    ],
    [
      'a temperature that is a text',
      bad => bad.post({ ...chat, temperature: 'hot' }),
      400,
      'temperature',
      'invalid_type',
    ],
    [
      'a temperature out of range',
      bad => bad.post({ ...chat, temperature: 2.5 }),
      400,
      'temperature',
      'integer_or_decimal',
    ],
    ['n of 0', bad => bad.post({ ...chat, n: 0 }), 400, 'n', 'integer_below_min_value'],
    ['n of a million', bad => bad.post({ ...chat, n: 1_000_000 }), 400, 'n', 'integer_above_max_value'],
    ['stream as a text', bad => bad.post({ ...chat, stream: 'true' }), 400, 'stream', 'invalid_type'],
    [
      'sound',
      bad =>
        bad.post({
          model: 'm',
          messages: [
            { role: 'user', content: [{ type: 'input_audio', input_audio: { data: '', format: 'wav' } }] },
          ],
        }),
      400,
      'messages[0].content[0].type',
      'unsupported_value',
    ],
    [
      'a file',
      bad =>
        bad.post({
          model: 'm',
          messages: [{ role: 'user', content: [{ type: 'file', file: { file_id: 'file-1' } }] }],
        }),
      400,
      'messages[0].content[0].type',
      'unsupported_value',
    ],
    [
      'a wrong type among Ollama’s options, a 500 there',
      bad => bad.post({ ...chat, options: { temperature: 'hot' } }),
      400,
      'options.temperature',
      'invalid_type',
    ],
    [
      'embeddings of tokens',
      bad => bad.post({ model: 'm', input: [1, 2, 3] }, '/v1/embeddings'),
      400,
      'input',
      'invalid_value',
    ],
    [
      'embeddings of an empty text',
      bad => bad.post({ model: 'm', input: ['a', ''] }, '/v1/embeddings'),
      400,
      'input[1]',
      'invalid_value',
    ],
    [
      'embeddings of nothing',
      bad => bad.post({ model: 'm', input: [] }, '/v1/embeddings'),
      400,
      'input',
      'empty_array',
    ],
    [
      'a completion of tokens',
      bad => bad.post({ model: 'm', prompt: [[1, 2]] }, '/v1/completions'),
      400,
      'prompt',
      'invalid_value',
    ],
    [
      'a completion of nothing',
      bad => bad.post({ model: 'm' }, '/v1/completions'),
      400,
      'prompt',
      'missing_required_parameter',
    ],
    [
      'best_of',
      bad => bad.post({ model: 'm', prompt: 'x', best_of: 3 }, '/v1/completions'),
      400,
      'best_of',
      'unsupported_value',
    ],
    ['an unknown path', bad => bad.post(chat, '/v1/chat/completion'), 404, null, 'unknown_url'],
    ['a base URL without /v1', bad => bad.post(chat, '/chat/completions'), 404, null, 'unknown_url'],
    ['/v1 twice', bad => bad.post(chat, '/v1/v1/chat/completions'), 404, null, 'unknown_url'],
    [
      'a path of nonsense',
      bad => bad.proxy.call('/v1/%00/../%ff', { key: bad.key }),
      404,
      null,
      'unknown_url',
    ],
    [
      'a wrong method',
      bad => bad.proxy.call(CHAT, { key: bad.key, method: 'DELETE' }),
      405,
      null,
      'method_not_allowed',
    ],
  ]
  for (const [name, send, status, param, code] of cases) {
    test(name, async () => {
      const bad = await startBad()
      const answer = await send(bad)
      expect(answer.status).toBe(status)
      const error = await errorOf(answer)
      expect(error.type).toBe('invalid_request_error')
      expect(error.param).toBe(param)
      if (code === 'integer_or_decimal') expect(error.code).toMatch(/^(decimal|integer)_above_max_value$/)
      else expect(error.code).toBe(code)
      if (status === 405) expect(answer.headers.get('allow')).toBe('POST, OPTIONS')
      await bad.expectUnharmed()
    })
  }

  test('an unknown model is Ollama’s to refuse: a 404, a failed row, no tokens', async () => {
    const { proxy, key, post } = await startBad()
    const answer = await post({ ...chat, model: 'nobody' })
    expect(answer.status).toBe(404)
    expect(await errorOf(answer)).toMatchObject({ param: 'model', code: 'model_not_found' })
    expect(await historyOf(proxy, key)).toMatchObject([{ outcome: 'failed', total_tokens: 0 }])
  })

  test('NUL inside a text is text, and arrives', async () => {
    const { ollama, post } = await startBad()
    ollama.next(say('a\0b'))
    const answer = await post({ model: 'm', messages: [{ role: 'user', content: 'x\0y' }] })
    expect(answer.status).toBe(200)
    expect(
      ((await answer.json()) as { choices: { message: { content: string } }[] }).choices[0]?.message.content,
    ).toBe('a\0b')
    expect(ollama.generating()[0]?.body['messages']).toEqual([{ role: 'user', content: 'x\0y' }])
  })
})

describe('a body too large', () => {
  test('100 MB, declared: refused by its length, unread', async () => {
    const bad = await startBad()
    const start = performance.now()
    const answer = await sendRaw(bad.proxy.port, [
      bad.head({ ...jsonType, 'content-length': String(100 * MB) }),
      '{"model":"',
    ])
    expect(answer.status).toBe(413)
    expect(rawErrorOf(answer)).toMatchObject({ type: 'invalid_request_error', code: 'request_too_large' })
    expect(performance.now() - start).toBeLessThan(5000)
    await bad.expectUnharmed()
  })

  test('100 MB, sent: the same', async () => {
    const bad = await startBad()
    const answer = await bad.raw(new Uint8Array(100 * MB))
    expect(answer.status).toBe(413)
    expect((await errorOf(answer)).code).toBe('request_too_large')
    await bad.expectUnharmed()
  })

  test('100 MB in chunks of no declared length: refused when the bound is passed', async () => {
    const bad = await startBad()
    const chunk = `${MB.toString(16)}\r\n${' '.repeat(MB)}\r\n`
    function* pieces() {
      yield bad.head({ ...jsonType, 'transfer-encoding': 'chunked' })
      for (let sent = 0; sent < 100; sent++) yield chunk
      yield '0\r\n\r\n'
    }
    const answer = await sendRaw(bad.proxy.port, pieces())
    expect(answer.status).toBe(413)
    expect(rawErrorOf(answer).code).toBe('request_too_large')
    await bad.expectUnharmed()
  })

  test('the bound is MAX_BODY_MB, and what is within it passes', async () => {
    const bad = await startBad({ settings: { MAX_BODY_MB: '1' } })
    const of = (length: number) => JSON.stringify({ ...chat, metadata: { x: 'x'.repeat(length) } })
    expect((await bad.raw(of(MB))).status).toBe(413)
    await bad.expectUnharmed()
    expect((await bad.raw(of(MB - 1000))).status).toBe(200)
  })
})

describe('compressed bodies', () => {
  const encode = {
    gzip: (text: string | Uint8Array) => gzipSync(text),
    zstd: (text: string | Uint8Array) => zstdCompressSync(text),
  }

  for (const [encoding, compress] of Object.entries(encode)) {
    test(`${encoding} is unpacked`, async () => {
      const { ollama, raw } = await startBad()
      ollama.next(say('hi'))
      const answer = await raw(
        new Uint8Array(
          compress(JSON.stringify({ ...chat, messages: [{ role: 'user', content: 'Grüße 🦙' }] })),
        ),
        { ...jsonType, 'content-encoding': encoding },
      )
      expect(answer.status).toBe(200)
      expect(ollama.generating()[0]?.body['messages']).toEqual([{ role: 'user', content: 'Grüße 🦙' }])
    })

    test(`a ${encoding} bomb is refused at the bound`, async () => {
      const bad = await startBad()
      const bomb = new Uint8Array(compress(new Uint8Array(200 * MB)))
      expect(bomb.length).toBeLessThan(MB)
      const answer = await bad.raw(bomb, { ...jsonType, 'content-encoding': encoding })
      expect(answer.status).toBe(413)
      expect((await errorOf(answer)).code).toBe('request_too_large')
      await bad.expectUnharmed()
    })

    test(`${encoding} that is none, or cut short, is a 400`, async () => {
      const bad = await startBad()
      const whole = new Uint8Array(compress(JSON.stringify({ ...chat, user: 'x'.repeat(5000) })))
      for (const body of [new TextEncoder().encode(JSON.stringify(chat)), whole.slice(0, whole.length - 9)]) {
        const answer = await bad.raw(body, { ...jsonType, 'content-encoding': encoding })
        expect(answer.status).toBe(400)
        expect((await errorOf(answer)).type).toBe('invalid_request_error')
      }
      await bad.expectUnharmed()
    })
  }

  test('an encoding we do not know is a 415', async () => {
    const bad = await startBad()
    for (const encoding of ['br', 'gzip, gzip', 'nonsense']) {
      const answer = await bad.raw(JSON.stringify(chat), { ...jsonType, 'content-encoding': encoding })
      expect(answer.status).toBe(415)
      expect((await errorOf(answer)).code).toBe('unsupported_media_type')
    }
    await bad.expectUnharmed()
  })
})

describe('requests that are broken as HTTP', () => {
  test('headers of 100 KB', async () => {
    const bad = await startBad()
    const answer = await sendRaw(bad.proxy.port, [
      bad.head({ ...jsonType, 'x-large': 'x'.repeat(100 * 1024), 'content-length': '2' }),
      '{}',
    ])
    expect(answer.status).toBe(431)
    await bad.expectUnharmed()
  })

  test('a key of 10 KB', async () => {
    const bad = await startBad()
    const answer = await bad.proxy.call(CHAT, { key: `sk-alice-${'x'.repeat(10_000)}`, json: chat })
    expect(answer.status).toBe(401)
    const error = await errorOf(answer)
    expect(error.code).toBe('invalid_api_key')
    expect(error.message.length).toBeLessThan(200)
    await bad.expectUnharmed()
  })

  test('a body cut short by its sender', async () => {
    const bad = await startBad()
    await sendRaw(
      bad.proxy.port,
      [bad.head({ ...jsonType, 'content-length': '500' }), JSON.stringify(chat)],
      { halfClose: true },
    ).catch(() => undefined)
    await bad.expectUnharmed()
  })

  test('garbage instead of HTTP', async () => {
    const bad = await startBad()
    const answer = await sendRaw(bad.proxy.port, ['\x16\x03\x01 nonsense\r\n\r\n']).catch(() => undefined)
    expect(answer?.status ?? 400).toBe(400)
    await bad.expectUnharmed()
  })
})

describe('the upload form', () => {
  const UPLOAD = `${CHAT}/upload`
  const png = Uint8Array.fromBase64(
    'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg==',
  )
  const formOf = (fields: Record<string, string | Blob>) => {
    const form = new FormData()
    for (const [name, value] of Object.entries(fields)) form.append(name, value)
    return form
  }
  const good = { model: 'm', messages: JSON.stringify(hello) }

  type Case = [name: string, fields: Record<string, string | Blob>, param: string | null, code: string | null]
  const cases: Case[] = [
    ['no model', { messages: good.messages }, 'model', 'missing_required_parameter'],
    ['no messages', { model: 'm' }, 'messages', 'missing_required_parameter'],
    ['messages that are no JSON', { ...good, messages: '[{' }, 'messages', 'invalid_value'],
    ['messages that are no list', { ...good, messages: '{}' }, 'messages', 'invalid_type'],
    [
      'a file that is no image',
      { ...good, files: new Blob(['hello, world'.repeat(10)]) },
      'files[0]',
      'invalid_image_format',
    ],
    ['an empty file', { ...good, files: new Blob([]) }, 'files[0]', 'empty_image_file'],
    ['a file that is a text field', { ...good, files: 'x' }, 'files[0]', 'invalid_type'],
    ['a temperature that is a word', { ...good, temperature: 'hot' }, 'temperature', 'invalid_type'],
    ['a stream that is a word', { ...good, stream: 'perhaps' }, 'stream', 'invalid_type'],
    [
      'a file without a user message',
      { model: 'm', messages: '[{"role":"system","content":"x"}]', files: new Blob([png]) },
      'messages',
      'invalid_value',
    ],
  ]
  for (const [name, fields, param, code] of cases) {
    test(name, async () => {
      const bad = await startBad()
      const answer = await bad.proxy.call(UPLOAD, { key: bad.key, method: 'POST', body: formOf(fields) })
      expect(answer.status).toBe(400)
      expect(await errorOf(answer)).toMatchObject({ param, code })
      await bad.expectUnharmed()
    })
  }

  test('a body cut short', async () => {
    const bad = await startBad()
    const whole = await new Response(formOf({ ...good, files: new Blob([png]) })).arrayBuffer()
    const type = 'multipart/form-data; boundary='
    const boundary = new TextDecoder().decode(whole).split('\r\n')[0]?.slice(2)
    for (const cut of [1, 30, 100, whole.byteLength - 10]) {
      const answer = await bad.raw(
        new Uint8Array(whole.slice(0, cut)),
        { 'content-type': type + boundary },
        UPLOAD,
      )
      expect(answer.status).toBe(400)
      expect((await errorOf(answer)).type).toBe('invalid_request_error')
    }
    await bad.expectUnharmed()
  })

  test('no boundary, or no form', async () => {
    const bad = await startBad()
    expect((await bad.raw('x', { 'content-type': 'multipart/form-data' }, UPLOAD)).status).toBe(400)
    const answer = await bad.raw(JSON.stringify(chat), jsonType, UPLOAD)
    expect(answer.status).toBe(415)
    expect((await errorOf(answer)).code).toBe('unsupported_media_type')
    await bad.expectUnharmed()
  })

  test('too large an image, and too large a form', async () => {
    const bad = await startBad({ settings: { MAX_UPLOAD_SIZE_MB: '1', MAX_BODY_MB: '3' } })
    const large = new Uint8Array(2 * MB)
    large.set(png)
    const image = await bad.proxy.call(UPLOAD, {
      key: bad.key,
      method: 'POST',
      body: formOf({ ...good, files: new Blob([large]) }),
    })
    expect(image.status).toBe(400)
    expect(await errorOf(image)).toMatchObject({ param: 'files[0]', code: 'image_too_large' })
    const form = await bad.proxy.call(UPLOAD, {
      key: bad.key,
      method: 'POST',
      body: formOf({ ...good, files: new Blob([new Uint8Array(4 * MB)]) }),
    })
    expect(form.status).toBe(413)
    await bad.expectUnharmed()
  })
})

describe('images', () => {
  const PARAM = 'messages[0].content[0].image_url'
  const imageMessage = (url: unknown) => ({
    model: 'm',
    messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url } }] }],
  })
  const ask = ({ post }: Bad, url: unknown) => post(imageMessage(url))

  const urls: [name: string, url: unknown, code: string][] = [
    ['a data URL with bad base64', 'data:image/png;base64,@@@not base64@@@', 'invalid_base64_image'],
    ['a data URL without base64', 'data:image/png,hello', 'invalid_base64_image'],
    ['an empty data URL', 'data:image/png;base64,', 'empty_image_file'],
    [
      'an image that is not an image',
      `data:image/png;base64,${btoa('just some text, of no image format')}`,
      'invalid_image_format',
    ],
    [
      'an image of another type than it says is told by its bytes',
      `data:image/png;base64,${btoa('%PDF-1.7 and so on')}`,
      'invalid_image_format',
    ],
    [
      'a type that is not allowed',
      `data:image/png;base64,${btoa('BM\x9e\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00')}`,
      'unsupported_image_media_type',
    ],
    ['no URL', 'hello', 'invalid_image_url'],
    ['a file', 'file:///etc/passwd', 'invalid_image_url'],
    ['ftp', 'ftp://example.com/a.png', 'invalid_image_url'],
    ['127.0.0.1', 'http://127.0.0.1/a.png', 'invalid_image_url'],
    ['127.0.0.1 by another port', 'http://127.0.0.1:11434/api/tags', 'invalid_image_url'],
    ['169.254.169.254', 'http://169.254.169.254/latest/meta-data/', 'invalid_image_url'],
    ['[::1]', 'http://[::1]/a.png', 'invalid_image_url'],
    ['[::ffff:127.0.0.1]', 'http://[::ffff:127.0.0.1]/a.png', 'invalid_image_url'],
    ['0x7f.1', 'http://0x7f.1/a.png', 'invalid_image_url'],
    ['2130706433', 'http://2130706433/a.png', 'invalid_image_url'],
    ['0.0.0.0', 'http://0.0.0.0/a.png', 'invalid_image_url'],
    ['10.0.0.1', 'https://10.0.0.1/a.png', 'invalid_image_url'],
    ['[fd00::1]', 'http://[fd00::1]/a.png', 'invalid_image_url'],
    ['a name that resolves to a private address', 'http://localhost/a.png', 'invalid_image_url'],
    ['a name and password', 'http://user:pw@127.0.0.1/a.png', 'invalid_image_url'],
  ]
  for (const [name, url, code] of urls) {
    test(name, async () => {
      const bad = await startBad()
      for (const stream of [false, true]) {
        const answer = await bad.post({ ...imageMessage(url), stream })
        expect(answer.status).toBe(400)
        const error = await errorOf(answer)
        expect(error).toMatchObject({ type: 'invalid_request_error', param: PARAM, code })
        expect(error.message).not.toMatch(/127\.0|169\.254|::1|ECONN|passwd|pw@/)
      }
      await bad.expectUnharmed()
    })
  }

  test('no URL at all, or of the wrong type', async () => {
    const bad = await startBad()
    for (const [url, code] of [
      [undefined, 'missing_required_parameter'],
      [null, 'missing_required_parameter'],
      [7, 'invalid_type'],
    ] as const) {
      const answer = await ask(bad, url)
      expect(answer.status).toBe(400)
      expect(await errorOf(answer)).toMatchObject({ param: PARAM, code })
    }
    await bad.expectUnharmed()
  })

  test('an image of more than MAX_UPLOAD_SIZE_MB', async () => {
    const bad = await startBad({ settings: { MAX_UPLOAD_SIZE_MB: '1' } })
    const answer = await ask(bad, `data:image/png;base64,${'iVBORw0KGgoA'.repeat(150_000)}`)
    expect(answer.status).toBe(400)
    expect(await errorOf(answer)).toMatchObject({ param: PARAM, code: 'image_too_large' })
    await bad.expectUnharmed()
  })

  test('IMAGE_URL_FETCH=off says what to do', async () => {
    const bad = await startBad({ settings: { IMAGE_URL_FETCH: 'off' } })
    const answer = await ask(bad, 'https://example.com/a.png')
    expect(answer.status).toBe(400)
    const error = await errorOf(answer)
    expect(error).toMatchObject({ param: PARAM, code: 'invalid_image_url' })
    expect(error.message).toContain('data URL')
    await bad.expectUnharmed()
  })

  describe('from a server that misbehaves', () => {
    /** A picture server on loopback; `closed` resolves when the proxy has let go of its connection. */
    const serve = async (answer: (request: IncomingMessage, response: ServerResponse) => void) => {
      let count = 0
      let left: () => void = () => undefined
      let seen: () => void = () => undefined
      const closed = new Promise<void>(resolve => {
        left = resolve
      })
      const asked = new Promise<void>(resolve => {
        seen = resolve
      })
      const server = createServer((request, response) => {
        count++
        request.socket.on('close', left)
        answer(request, response)
        seen()
      })
      await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
      return {
        url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/picture`,
        closed,
        asked,
        requests: () => count,
        [Symbol.dispose]() {
          server.close()
          server.closeAllConnections()
        },
      }
    }
    const startAll = () => startBad({ settings: { IMAGE_URL_FETCH: 'all', MAX_UPLOAD_SIZE_MB: '1' } })

    const servers: [
      name: string,
      answer: (request: IncomingMessage, response: ServerResponse) => void,
      code: string,
    ][] = [
      [
        'a URL of 1 GB, declared',
        (_, response) =>
          response
            .writeHead(200, { 'content-type': 'image/png', 'content-length': String(2 ** 30) })
            .write('x'),
        'image_too_large',
      ],
      [
        'a URL that never ends',
        (_, response) => {
          response.writeHead(200, { 'content-type': 'image/png' })
          const more = () => {
            while (!response.destroyed && response.write(new Uint8Array(65_536)));
            response.once('drain', more)
          }
          more()
        },
        'image_too_large',
      ],
      [
        'a page instead of a picture',
        (_, response) => response.end('<html>hello</html>'),
        'invalid_image_format',
      ],
      ['an empty picture', (_, response) => response.end(), 'empty_image_file'],
      [
        'a picture that is not there',
        (_, response) => response.writeHead(404).end(),
        'failed_to_download_image',
      ],
      [
        'a picture that breaks off',
        (_, response) => {
          response.writeHead(200, { 'content-length': '1000' })
          response.write('abc', () => response.destroy())
        },
        'failed_to_download_image',
      ],
      [
        'a compressed picture',
        (_, response) =>
          response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(new Uint8Array(MB))),
        'failed_to_download_image',
      ],
      [
        'redirects in a circle',
        (request, response) => response.writeHead(302, { location: request.url ?? '/' }).end(),
        'failed_to_download_image',
      ],
      [
        'a redirect to a file',
        (_, response) => response.writeHead(302, { location: 'file:///etc/passwd' }).end(),
        'invalid_image_url',
      ],
    ]
    for (const [name, answer, code] of servers) {
      test(name, async () => {
        const bad = await startAll()
        using pictures = await serve(answer)
        const refusal = await ask(bad, pictures.url)
        expect(refusal.status).toBe(400)
        const error = await errorOf(refusal)
        expect(error).toMatchObject({ type: 'invalid_request_error', param: PARAM, code })
        expect(error.message).not.toContain('127.0.0.1')
        await pictures.closed
        await bad.expectUnharmed()
      })
    }

    test('a URL that drips is let go with the client that asked for it, and costs nothing', async () => {
      const bad = await startAll()
      using pictures = await serve(
        (_, response) => void response.writeHead(200, { 'content-type': 'image/png' }).write('\x89'),
      )
      const leaving = new AbortController()
      const answer = bad.proxy
        .call(CHAT, { key: bad.key, json: imageMessage(pictures.url), signal: leaving.signal })
        .catch(error => error.name)
      await pictures.asked
      leaving.abort()
      expect(await answer).toBe('AbortError')
      await pictures.closed
      await bad.expectUnharmed()
    })

    test('a redirect that leads to a private address is never followed by default', async () => {
      const bad = await startBad()
      using pictures = await serve((_, response) => void response.end('secret'))
      expect((await ask(bad, pictures.url)).status).toBe(400)
      expect(pictures.requests()).toBe(0)
      await bad.expectUnharmed()
    })
  })
})

test('a hundred bad requests at once leave the server well', async () => {
  const bad = await startBad()
  const bodies = [
    '',
    '{',
    '[]',
    'null',
    withMessages(nested(20_000, '[', ']')),
    JSON.stringify({ ...chat, model: 'x'.repeat(100_000) }),
    withMessages('"\\ud800"'),
  ]
  const answers = await Promise.all(
    Array.from({ length: 100 }, (_, index) => bad.raw(bodies[index % bodies.length] ?? '')),
  )
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([400]))
  for (const answer of answers) await errorOf(answer)
  await bad.expectUnharmed()
})
