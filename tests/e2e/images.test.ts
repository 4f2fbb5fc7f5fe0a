/** Pictures on their way to Ollama: from data URLs, from http URLs, from an upload form (issue 6, points 2 and 9). */
import { describe, expect, test } from 'bun:test'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { done, say } from '../../src/simulator/script.ts'
import { chatCompletion, errorBody, readChunks } from '../support/contract.ts'
import { hello, historyOf, startSession } from '../support/session.ts'

const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=='
const gif = 'R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs='
const jpeg = btoa('\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9')
const webp = btoa(
  'RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00',
)
const bytes = (base64: string) => Uint8Array.fromBase64(base64)

const startImages = async (options: Parameters<typeof startSession>[0] = {}) => {
  const { ollama, proxy } = await startSession(options)
  const key = await proxy.createUser('alice')
  ollama.otherwise(say('seen'), done({ prompt: 600, completion: 2 }))
  return {
    ollama,
    proxy,
    key,
    ask: (content: unknown, more: object = {}) =>
      proxy.call('/v1/chat/completions', {
        key,
        json: { model: 'm', messages: [{ role: 'user', content }], ...more },
      }),
    /** The messages that Ollama was given last. */
    received: () => ollama.generating().at(-1)?.body['messages'],
  }
}
const part = (url: string, more: object = {}) => ({ type: 'image_url', image_url: { url, ...more } })
const text = (words: string) => ({ type: 'text', text: words })

/** A picture server on loopback that notes what it was asked. */
const serve = async (answer: RequestListener) => {
  const asked: { path: string; headers: Record<string, unknown> }[] = []
  const server = createServer((request, response) => {
    asked.push({ path: request.url ?? '', headers: request.headers })
    answer(request, response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    [Symbol.dispose]() {
      server.close()
      server.closeAllConnections()
    },
  }
}

describe('data URLs', () => {
  for (const [name, base64] of Object.entries({ png, gif, jpeg, webp })) {
    test(`${name} reaches Ollama as bare base64, its type told by its bytes`, async () => {
      const { ask, received } = await startImages()
      expect((await ask([text('What is this?'), part(`data:image/png;base64,${base64}`)])).status).toBe(200)
      expect(received()).toEqual([{ role: 'user', content: 'What is this?', images: [base64] }])
    })
  }

  test('every way of writing one that clients have', async () => {
    const { ask, received } = await startImages()
    const urls = [
      `data:;base64,${png}`,
      `DATA:IMAGE/PNG;BASE64,${png}`,
      `data:image/png;charset=utf-8;base64,${png}`,
      `data:image/png;base64,${png.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')}`,
      `data:image/png;base64,${png.slice(0, 40)}\n${png.slice(40)}\r\n`,
    ]
    for (const url of urls) {
      expect((await ask([part(url)])).status).toBe(200)
      expect(received()).toEqual([{ role: 'user', content: '', images: [png] }])
    }
    expect((await ask([{ type: 'image_url', image_url: urls[0] }])).status).toBe(200)
    expect((await ask([{ type: 'input_image', image_url: urls[0] }])).status).toBe(200)
  })

  test('several, with text between and a detail: texts are joined, pictures kept in order', async () => {
    const { ask, received } = await startImages()
    const answer = await ask([
      text('a'),
      part(`data:;base64,${png}`, { detail: 'high' }),
      text('b'),
      part(`data:;base64,${gif}`, { detail: 'auto' }),
    ])
    expect(answer.status).toBe(200)
    expect(answer.headers.get('x-ignored-parameters')).toBe('image_url.detail')
    expect(received()).toEqual([{ role: 'user', content: 'a\nb', images: [png, gif] }])
  })

  test('in earlier messages and in a tool’s result', async () => {
    const { ollama, proxy, key } = await startImages()
    const call = { id: 'c1', type: 'function', function: { name: 'look', arguments: '{}' } }
    const messages = [
      { role: 'user', content: [part(`data:;base64,${png}`)] },
      { role: 'assistant', content: null, tool_calls: [call] },
      { role: 'tool', tool_call_id: 'c1', content: [text('here'), part(`data:;base64,${gif}`)] },
    ]
    expect((await proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages } })).status).toBe(
      200,
    )
    expect(ollama.generating()[0]?.body['messages']).toMatchObject([
      { images: [png] },
      { role: 'assistant' },
      { role: 'tool', tool_name: 'look', content: 'here', images: [gif] },
    ])
  })

  test('streamed answers to pictures are like any other', async () => {
    const { ask } = await startImages()
    const answer = await ask([part(`data:;base64,${png}`)], {
      stream: true,
      stream_options: { include_usage: true },
    })
    expect(readChunks(await answer.text(), { usage: true }).at(-1)?.usage?.prompt_tokens).toBe(600)
  })

  test('ALLOWED_IMAGE_TYPES decides, by the bytes', async () => {
    const { ask } = await startImages({ settings: { ALLOWED_IMAGE_TYPES: 'image/png' } })
    expect((await ask([part(`data:image/gif;base64,${png}`)])).status).toBe(200)
    const refused = await ask([part(`data:image/png;base64,${gif}`)])
    expect(refused.status).toBe(400)
    expect(errorBody.parse(await refused.json()).error).toMatchObject({
      code: 'unsupported_image_media_type',
      param: 'messages[0].content[0].image_url',
    })
  })

  test('a model without vision is no model for pictures; one that Ollama does not describe is asked', async () => {
    const { ollama, ask } = await startImages({
      simulator: { models: [{ name: 'm', capabilities: ['completion'] }] },
    })
    const refused = await ask([text('x'), part(`data:;base64,${png}`)])
    expect(refused.status).toBe(400)
    expect(errorBody.parse(await refused.json()).error).toMatchObject({
      code: 'unsupported_value',
      param: 'messages[0].content[1].image_url',
    })
    expect(ollama.generating()).toHaveLength(0)
  })
})

describe('http URLs', () => {
  const picture: RequestListener = (_, response) =>
    response.writeHead(200, { 'content-type': 'text/plain' }).end(bytes(png))
  const all = { settings: { IMAGE_URL_FETCH: 'all' } } as const

  test('the picture is fetched and reaches Ollama', async () => {
    const { ask, received } = await startImages(all)
    using pictures = await serve(picture)
    expect((await ask([text('x'), part(`${pictures.url}/a.png?size=1`)])).status).toBe(200)
    expect(received()).toEqual([{ role: 'user', content: 'x', images: [png] }])
    expect(pictures.asked).toHaveLength(1)
    expect(pictures.asked[0]).toMatchObject({
      path: '/a.png?size=1',
      headers: { host: new URL(pictures.url).host },
    })
    expect(pictures.asked[0]?.headers).not.toContainAnyKeys(['authorization', 'cookie', 'referer'])
  })

  test('the same URL within one request is fetched once, and put wherever it stands', async () => {
    const { ask, received } = await startImages(all)
    using pictures = await serve(picture)
    const url = `${pictures.url}/same.png`
    expect(
      (await ask([part(url), part(`data:;base64,${gif}`), part(url), part(`${url}?other`)])).status,
    ).toBe(200)
    expect(received()).toEqual([{ role: 'user', content: '', images: [png, gif, png, png] }])
    expect(pictures.asked.map(({ path }) => path)).toEqual(['/same.png', '/same.png?other'])
  })

  test('n choices fetch it once', async () => {
    const { ollama, ask } = await startImages(all)
    using pictures = await serve(picture)
    const answer = await ask([part(pictures.url)], { n: 3 })
    expect(chatCompletion.parse(await answer.json()).choices).toHaveLength(3)
    expect(pictures.asked).toHaveLength(1)
    for (const { body } of ollama.generating())
      expect(body['messages']).toEqual([{ role: 'user', content: '', images: [png] }])
  })

  test('redirects are followed, three at most', async () => {
    const { ask, received } = await startImages(all)
    using pictures = await serve((request, response) => {
      const left = Number(request.url?.slice(1))
      if (left === 0) response.end(bytes(png))
      else response.writeHead(302, { location: `/${left - 1}` }).end()
    })
    expect((await ask([part(`${pictures.url}/3`)])).status).toBe(200)
    expect(received()).toMatchObject([{ images: [png] }])
    expect((await ask([part(`${pictures.url}/4`)])).status).toBe(400)
  })

  test('one of several that is not there refuses the whole, and nothing is sent', async () => {
    const { ollama, ask } = await startImages(all)
    using pictures = await serve((request, response) =>
      request.url === '/gone' ? response.writeHead(404).end() : response.end(bytes(png)),
    )
    const refused = await ask([part(`${pictures.url}/here`), part(`${pictures.url}/gone`)])
    expect(refused.status).toBe(400)
    expect(errorBody.parse(await refused.json()).error).toMatchObject({
      code: 'failed_to_download_image',
      param: 'messages[0].content[1].image_url',
    })
    expect(ollama.generating()).toHaveLength(0)
  })
})

describe('the upload form', () => {
  const upload = async (
    fields: Record<string, string>,
    files: Blob[],
    options: Parameters<typeof startImages>[0] = {},
  ) => {
    const session = await startImages(options)
    const form = new FormData()
    for (const [name, value] of Object.entries(fields)) form.append(name, value)
    for (const [index, file] of files.entries()) form.append('files', file, `picture-${index}`)
    const answer = await session.proxy.call('/v1/chat/completions/upload', {
      key: session.key,
      method: 'POST',
      body: form,
    })
    return { ...session, answer }
  }
  const messages = JSON.stringify([
    { role: 'user', content: 'first' },
    { role: 'assistant', content: 'ok' },
    { role: 'user', content: 'last' },
  ])

  test('any number of files go into the last user message', async () => {
    const { answer, received, proxy, key } = await upload({ model: 'm', messages }, [
      new Blob([bytes(png)]),
      new Blob([bytes(gif)]),
    ])
    expect(answer.status).toBe(200)
    const completion = chatCompletion.parse(await answer.json())
    expect(received()).toEqual([
      { role: 'user', content: 'first' },
      { role: 'assistant', content: 'ok' },
      { role: 'user', content: 'last', images: [png, gif] },
    ])
    expect(await historyOf(proxy, key)).toMatchObject([
      { id: completion.id, prompt_tokens: 600, outcome: 'completed' },
    ])
  })

  test('its fields are those of the JSON form', async () => {
    const { answer, ollama } = await upload(
      { model: 'm', messages, stream: 'true', temperature: '0', max_tokens: '5' },
      [],
    )
    expect(readChunks(await answer.text(), { usage: false }).length).toBeGreaterThan(1)
    expect(ollama.generating()[0]?.body).toMatchObject({
      model: 'm',
      options: { temperature: 0, num_predict: 5 },
    })
  })

  test('without files it is plain chat', async () => {
    const { answer, received } = await upload(
      { model: 'm', messages: JSON.stringify(hello), stream: 'false' },
      [],
    )
    expect(answer.status).toBe(200)
    expect(received()).toEqual([{ role: 'user', content: 'Hello' }])
  })

  test('a user message in parts keeps them', async () => {
    const parts = JSON.stringify([{ role: 'user', content: [text('a'), part(`data:;base64,${gif}`)] }])
    const { answer, received } = await upload({ model: 'm', messages: parts }, [new Blob([bytes(png)])])
    expect(answer.status).toBe(200)
    expect(received()).toEqual([{ role: 'user', content: 'a', images: [gif, png] }])
  })
})

test('no byte of a picture is in the history, the preview or the log', async () => {
  const { proxy, key, ask } = await startImages({
    settings: { PROMPT_PREVIEW_CHARS: '500', LOG_LEVEL: 'debug' },
  })
  expect((await ask([text('What is this?'), part(`data:image/png;base64,${png}`)])).status).toBe(200)
  expect(
    (await ask([part(`data:image/png;base64,${btoa('not an image, but a secret of mine')}`)])).status,
  ).toBe(400)
  const history = await historyOf(proxy, key)
  expect(history).toMatchObject([{ prompt_preview: 'What is this?' }])
  const told = JSON.stringify([history, proxy.log])
  for (const secret of [
    png.slice(0, 24),
    btoa('not an image, but a secret of mine').slice(0, 20),
    'base64',
    'secret of mine',
  ])
    expect(told).not.toContain(secret)
})
