import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { readFileSync } from 'node:fs'
import http, { type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import https from 'node:https'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { ApiError } from '../../src/errors.ts'
import { createImageFetcher, type ImageFetcherOptions } from '../../src/runtime/fetch-image.ts'

const picture = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10, 0, 1, 2, 3])
const param = 'messages[0].content[1].image_url'
const fixture = (name: string) => readFileSync(new URL(`../fixtures/tls/${name}`, import.meta.url), 'utf8')
const never = new AbortController().signal

const servers: { close(): unknown }[] = []
const listen = async (server: Server | http.Server | https.Server) => {
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', () => resolve()))
  servers.push(server)
  return (server.address() as AddressInfo).port
}
afterEach(() => {
  for (const server of servers.splice(0)) server.close()
})

const serve = (listener: RequestListener) => listen(http.createServer(listener))
const respond = (head: string, body: (socket: Socket) => void = socket => socket.end()) =>
  listen(
    createServer(socket => {
      socket.on('error', () => undefined)
      socket.once('data', () => {
        socket.write(head)
        body(socket)
      })
    }),
  )

/** A fetcher that finds every name on this machine. */
const create = (options: Partial<ImageFetcherOptions> = {}) =>
  createImageFetcher({
    mode: 'all',
    maxBytes: 1_000_000,
    timeoutMs: 2000,
    resolve: async () => ['127.0.0.1'],
    ...options,
  })

const failureOf = async (promise: Promise<unknown>): Promise<ApiError> => {
  const failure = await promise.then(
    () => new Error('it succeeded'),
    (cause: unknown) => cause,
  )
  if (!(failure instanceof ApiError)) throw failure
  return failure
}

const expectFailure = async (promise: Promise<unknown>, code: string, message = /./) => {
  const { status, body } = await failureOf(promise)
  expect(status).toBe(400)
  expect(body.error).toMatchObject({ type: 'invalid_request_error', param, code })
  expect(body.error.message).toMatch(message)
  expect(body.error.message).not.toMatch(/127\.|::1|ECONN|Error|node:|\n/)
}

describe('a good URL', () => {
  test('its bytes arrive unchanged', async () => {
    const port = await serve((_, response) => response.end(picture))
    expect(await create()(`http://pictures.test:${port}/a.png?x=1#y`, never, param)).toEqual(picture)
  })

  test('nothing of the client or the environment travels along', async () => {
    let seen: IncomingMessage | undefined
    const port = await serve((incoming, response) => {
      seen = incoming
      response.setHeader('set-cookie', 'a=b')
      response.end(picture)
    })
    await create()(`http://pictures.test:${port}/p/a.png?x=%20y#fragment`, never, param)
    expect(seen?.url).toBe('/p/a.png?x=%20y')
    expect(seen?.headers).toEqual({
      host: `pictures.test:${port}`,
      accept: 'image/*',
      'accept-encoding': 'identity',
      'user-agent': 'ai-usage-proxy',
      connection: 'close',
    })
  })

  test('proxy variables of the environment are ignored', async () => {
    const names = [
      'HTTP_PROXY',
      'http_proxy',
      'HTTPS_PROXY',
      'https_proxy',
      'ALL_PROXY',
      'NODE_USE_ENV_PROXY',
    ]
    const before = names.map(name => [name, process.env[name]] as const)
    let proxied = 0
    const proxy = await listen(
      createServer(socket => {
        proxied += 1
        socket.destroy()
      }),
    )
    for (const name of names) process.env[name] = `http://127.0.0.1:${proxy}`
    try {
      const port = await serve((_, response) => response.end(picture))
      expect(await create()(`http://pictures.test:${port}/`, never, param)).toEqual(picture)
      expect(proxied).toBe(0)
    } finally {
      for (const [name, value] of before) {
        if (value === undefined) delete process.env[name]
        else process.env[name] = value
      }
    }
  })

  test('a chunked body without a length arrives whole', async () => {
    const port = await serve(async (_, response) => {
      for (const byte of picture) response.write(new Uint8Array([byte]))
      response.end()
    })
    expect(await create()(`http://pictures.test:${port}/`, never, param)).toEqual(picture)
  })

  test('when one address refuses the connection the next one is tried', async () => {
    const port = await serve((_, response) => response.end(picture))
    const fetchImage = create({ resolve: async () => ['::1', '127.0.0.2', '127.0.0.1'] })
    expect(await fetchImage(`http://pictures.test:${port}/`, never, param)).toEqual(picture)
  })
})

describe('https', () => {
  const secure = (listener: RequestListener) =>
    listen(https.createServer({ key: fixture('key.pem'), cert: fixture('cert.pem') }, listener))
  const echoName = (incoming: IncomingMessage, response: ServerResponse) => {
    const name = (incoming.socket as unknown as { servername?: string | false }).servername
    response.end(JSON.stringify({ name, host: incoming.headers.host }))
  }
  const text = (bytes: Uint8Array) => JSON.parse(new TextDecoder().decode(bytes))

  test('the connection goes to the vetted address, the certificate and the server name are those of the URL', async () => {
    const port = await secure(echoName)
    const asked: string[] = []
    const resolve = async (host: string) => {
      asked.push(host)
      return ['127.0.0.1']
    }
    const bytes = await create({ ca: fixture('cert.pem'), resolve })(
      `https://pictures.test:${port}/`,
      never,
      param,
    )
    expect(text(bytes)).toEqual({ name: 'pictures.test', host: `pictures.test:${port}` })
    expect(asked).toEqual(['pictures.test'])
  })

  test('an address in the URL is checked against the addresses of the certificate', async () => {
    const port = await secure((_, response) => response.end(picture))
    expect(await create({ ca: fixture('cert.pem') })(`https://127.0.0.1:${port}/`, never, param)).toEqual(
      picture,
    )
  })

  test('a certificate of another name is refused', async () => {
    const port = await secure(echoName)
    const fetchImage = create({ ca: fixture('cert.pem') })
    await expectFailure(fetchImage(`https://other.test:${port}/`, never, param), 'failed_to_download_image')
  })

  test('a certificate nobody vouches for is refused, whatever the environment says', async () => {
    const before = process.env['NODE_TLS_REJECT_UNAUTHORIZED']
    process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = '0'
    try {
      const port = await secure(echoName)
      await expectFailure(
        create()(`https://pictures.test:${port}/`, never, param),
        'failed_to_download_image',
      )
    } finally {
      if (before === undefined) delete process.env['NODE_TLS_REJECT_UNAUTHORIZED']
      else process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = before
    }
  })
})

describe('where a URL may lead', () => {
  let connections = 0
  let port = 0
  const trap = createServer(socket => {
    connections += 1
    socket.destroy()
  })
  beforeAll(async () => {
    await new Promise<void>(resolve => trap.listen(0, '127.0.0.1', () => resolve()))
    port = (trap.address() as AddressInfo).port
  })
  afterAll(() => trap.close())

  const inward = [
    ...[
      '127.0.0.1',
      '127.1',
      '0x7f.1',
      '0x7f000001',
      '2130706433',
      '0177.0.0.1',
      '0',
      '127.0.0.1.',
      '①②⑦.0.0.1',
    ],
    ...[
      '169.254.169.254',
      '10.0.0.1',
      '100.64.0.1',
      '[::1]',
      '[::]',
      '[::ffff:127.0.0.1]',
      '[::ffff:7f00:1]',
    ],
    ...['[::127.0.0.1]', '[64:ff9b::7f00:1]', '[2002:7f00:1::]', '[fd00::1]', '[fe80::1]'],
  ]
  for (const host of inward)
    test(`public mode refuses http://${host}/ and knocks nowhere`, async () => {
      const fetchImage = create({ mode: 'public' })
      await expectFailure(
        fetchImage(`http://${host}:${port}/`, never, param),
        'invalid_image_url',
        /public internet/,
      )
      expect(connections).toBe(0)
    })

  test('one private address among public ones refuses the name', async () => {
    for (const addresses of [['127.0.0.1'], ['8.8.8.8', '10.0.0.1'], ['::ffff:10.0.0.1', '8.8.8.8']]) {
      const fetchImage = create({ mode: 'public', resolve: async () => addresses })
      await expectFailure(fetchImage(`http://inside.test:${port}/`, never, param), 'invalid_image_url')
    }
    expect(connections).toBe(0)
  })

  test('names of this machine are refused through the real resolver', async () => {
    const fetchImage = createImageFetcher({ mode: 'public', maxBytes: 1000, timeoutMs: 2000 })
    for (const host of ['localhost', 'localhost.'])
      await expectFailure(fetchImage(`http://${host}:${port}/`, never, param), 'invalid_image_url')
    expect(connections).toBe(0)
  })

  test('the name is resolved once, so that a name server which changes its mind changes nothing', async () => {
    let asked = 0
    const fetchImage = create({ resolve: async () => (asked++ === 0 ? ['127.0.0.1'] : ['127.0.0.9']) })
    await failureOf(fetchImage(`http://rebind.test:${port}/`, never, param))
    expect(asked).toBe(1)
    expect(connections).toBe(1)
  })

  test.each([
    ['ftp://pictures.test/a', /http:\/\/ or https/],
    ['file:///etc/passwd', /http:\/\/ or https/],
    ['data:image/png;base64,AAAA', /http:\/\/ or https/],
    ['gopher://pictures.test/', /http:\/\/ or https/],
    ['http://user:secret@pictures.test/', /user name or password/],
    ['http://user@pictures.test/', /user name or password/],
    ['', /not a valid URL/],
    ['pictures.test/a.png', /not a valid URL/],
    ['http://', /not a valid URL/],
    ['http://[fe80::1%25eth0]/', /not a valid URL/],
    ['http://pictures.test:99999/', /not a valid URL/],
  ])('%p is refused', async (url, message) => {
    await expectFailure(create()(url, never, param), 'invalid_image_url', message)
  })

  test('mode off fetches nothing and says what to do', async () => {
    const fetchImage = create({ mode: 'off' })
    await expectFailure(fetchImage('https://pictures.test/', never, param), 'invalid_image_url', /data URL/)
  })

  test('a name that does not resolve, or to nothing, is a failed download', async () => {
    const unknown = create({
      resolve: async () => {
        throw new Error('getaddrinfo ENOTFOUND')
      },
    })
    await expectFailure(unknown('http://pictures.test/', never, param), 'failed_to_download_image')
    await expectFailure(
      create({ resolve: async () => [] })('http://x.test/', never, param),
      'failed_to_download_image',
    )
  })
})

describe('redirects', () => {
  const chain = (location: (hop: number) => string | undefined, status = 302) => {
    let hop = 0
    return serve((_, response) => {
      const next = location(hop++)
      if (next === undefined) return response.end(picture)
      response.writeHead(status, { location: next })
      return response.end('moved')
    })
  }

  test.each([301, 302, 303, 307, 308])('%p is followed, relative locations too', async status => {
    const port = await chain(hop => (hop === 0 ? '../b.png' : undefined), status)
    expect(await create()(`http://pictures.test:${port}/x/a.png`, never, param)).toEqual(picture)
  })

  test('three are followed, the fourth is not', async () => {
    const three = await chain(hop => (hop < 3 ? '/again' : undefined))
    expect(await create()(`http://pictures.test:${three}/`, never, param)).toEqual(picture)
    const four = await chain(hop => (hop < 4 ? '/again' : undefined))
    await expectFailure(
      create()(`http://pictures.test:${four}/`, never, param),
      'failed_to_download_image',
      /3 times/,
    )
  })

  test('each target is resolved and vetted again, without the path it came from', async () => {
    const referers: unknown[] = []
    const asked: string[] = []
    const port = await serve((incoming, response) => {
      referers.push(incoming.headers.referer)
      if (incoming.headers.host?.startsWith('one.'))
        response.writeHead(302, { location: `http://two.test:${port}/` })
      response.end(picture)
    })
    const resolve = async (host: string) => {
      asked.push(host)
      return ['127.0.0.1']
    }
    await create({ resolve })(`http://one.test:${port}/secret`, never, param)
    expect(asked).toEqual(['one.test', 'two.test'])
    expect(referers).toEqual([undefined, undefined])
  })

  test.each(['http://user:pw@two.test/', 'file:///etc/passwd', 'http://[::bad', 'javascript:1'])(
    'one to %p is refused',
    async location => {
      const port = await chain(hop => (hop === 0 ? location : undefined))
      await expectFailure(create()(`http://pictures.test:${port}/`, never, param), 'invalid_image_url')
    },
  )

  test('one to a private address is refused in public mode and never contacted', async () => {
    let inside = 0
    const secret = await serve((_, response) => {
      inside += 1
      response.end('secret')
    })
    const port = await chain(hop => (hop === 0 ? `http://inside.test:${secret}/` : undefined))
    const publicly = create({
      mode: 'public',
      isPublic: address => address === '127.0.0.1',
      resolve: async host => [host === 'inside.test' ? '127.0.0.2' : '127.0.0.1'],
    })
    await expectFailure(publicly(`http://pictures.test:${port}/`, never, param), 'invalid_image_url')
    expect(inside).toBe(0)
    const literal = await chain(hop => (hop === 0 ? `http://[::ffff:127.0.0.1]:${secret}/` : undefined))
    await expectFailure(publicly(`http://pictures.test:${literal}/`, never, param), 'invalid_image_url')
    expect(inside).toBe(0)
  })

  test('from https to http is refused', async () => {
    const server = https.createServer(
      { key: fixture('key.pem'), cert: fixture('cert.pem') },
      (_, response) => {
        response.writeHead(302, { location: 'http://pictures.test/' })
        response.end()
      },
    )
    const port = await listen(server)
    const fetchImage = create({ ca: fixture('cert.pem') })
    await expectFailure(
      fetchImage(`https://pictures.test:${port}/`, never, param),
      'invalid_image_url',
      /https to http/,
    )
  })
})

describe('bad servers', () => {
  test.each([204, 400, 403, 404, 500, 304])('status %p', async status => {
    const port = await serve((_, response) => {
      response.statusCode = status
      response.end()
    })
    const code = status === 204 ? 'empty_image_file' : 'failed_to_download_image'
    await expectFailure(create()(`http://pictures.test:${port}/`, never, param), code)
  })

  test('nothing listens there', async () => {
    await expectFailure(create()('http://pictures.test:1/', never, param), 'failed_to_download_image')
  })

  test('a declared length over the limit is refused before a byte is read', async () => {
    let sent = 0
    const port = await respond('HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n', socket => {
      socket.write('x', () => {
        sent += 1
      })
    })
    await expectFailure(
      create()(`http://pictures.test:${port}/`, never, param),
      'image_too_large',
      /1000000 bytes/,
    )
    expect(sent).toBeLessThanOrEqual(1)
  })

  test('an endless body stops at the limit and its connection is closed', async () => {
    let sent = 0
    const { promise: closed, resolve: onClosed } = Promise.withResolvers<void>()
    const port = await respond('HTTP/1.1 200 OK\r\n\r\n', socket => {
      socket.on('close', () => onClosed())
      const block = new Uint8Array(65536)
      const pour = () => {
        while (!socket.destroyed) {
          sent += block.length
          if (!socket.write(block)) return void socket.once('drain', pour)
        }
      }
      pour()
    })
    await expectFailure(create()(`http://pictures.test:${port}/`, never, param), 'image_too_large')
    await closed
    expect(sent).toBeLessThan(32_000_000) // what the buffers of both kernels swallowed, not a gigabyte
  })

  test('exactly the limit is accepted, one byte more is not', async () => {
    const port = await serve((incoming, response) =>
      response.end(new Uint8Array(Number(incoming.url?.slice(1)))),
    )
    const fetchImage = create({ maxBytes: 5000 })
    expect((await fetchImage(`http://pictures.test:${port}/5000`, never, param)).length).toBe(5000)
    await expectFailure(fetchImage(`http://pictures.test:${port}/5001`, never, param), 'image_too_large')
    const undeclared = await serve((incoming, response) => {
      response.write(new Uint8Array(Number(incoming.url?.slice(1)) - 1))
      response.end(new Uint8Array(1))
    })
    expect((await fetchImage(`http://pictures.test:${undeclared}/5000`, never, param)).length).toBe(5000)
    await expectFailure(
      fetchImage(`http://pictures.test:${undeclared}/5001`, never, param),
      'image_too_large',
    )
  })

  test.each([
    ['an error page', 'HTTP/1.1 500 Oops\r\n\r\n<html>'],
    ['a compressed body', 'HTTP/1.1 200 OK\r\ncontent-encoding: br\r\n\r\nx'],
    ['a body declared too large', 'HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\nx'],
    ['the page of a redirect', 'HTTP/1.1 302 Found\r\nlocation: ftp://x/\r\n\r\nmoved'],
  ])('the connection of %s that never ends is closed', async (_, head) => {
    const { promise: closed, resolve: onClosed } = Promise.withResolvers<void>()
    const port = await respond(head, socket => {
      socket.resume()
      socket.on('close', () => onClosed())
    })
    await failureOf(create()(`http://pictures.test:${port}/`, never, param))
    await closed
  })

  test('a compressed body is refused, not unpacked', async () => {
    const port = await serve((_, response) => {
      response.setHeader('content-encoding', 'gzip')
      response.end(Bun.gzipSync(new Uint8Array(10_000_000)))
    })
    await expectFailure(
      create()(`http://pictures.test:${port}/`, never, param),
      'failed_to_download_image',
      /compressed/,
    )
  })

  test('a server that drips is cut off at the total time limit', async () => {
    const port = await respond('HTTP/1.1 200 OK\r\n\r\n', socket => {
      const drip = setInterval(() => socket.write('x'), 5)
      socket.on('close', () => clearInterval(drip))
    })
    const fetchImage = create({ timeoutMs: 80, idleTimeoutMs: 60 })
    await expectFailure(
      fetchImage(`http://pictures.test:${port}/`, never, param),
      'failed_to_download_image',
      /0.08 s/,
    )
  })

  test.each([
    ['before its head', ''],
    ['within its head', 'HTTP/1.1 200 OK\r\ncontent-'],
    ['within its body', 'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc'],
    [
      'after switching protocols',
      'HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n',
    ],
  ])('a server that falls silent %s fails', async (_, head) => {
    const port = await respond(head, () => undefined)
    const fetchImage = create({ idleTimeoutMs: 40 })
    await expectFailure(fetchImage(`http://pictures.test:${port}/`, never, param), 'failed_to_download_image')
  })

  test('a look-up that never ends fails', async () => {
    const fetchImage = create({ idleTimeoutMs: 40, resolve: () => new Promise(() => undefined) })
    await expectFailure(
      fetchImage('http://pictures.test/', never, param),
      'failed_to_download_image',
      /silent/,
    )
  })

  test.each([
    ['a body shorter than declared', 'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc'],
    ['a chunked body cut short', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc'],
    ['no HTTP', 'SSH-2.0-OpenSSH_9.6\r\n'],
    ['nothing', ''],
    ['endless headers', `HTTP/1.1 200 OK\r\n${`x-a: ${'b'.repeat(8000)}\r\n`.repeat(40)}`],
  ])('%s', async (_, head) => {
    const port = await respond(head)
    await expectFailure(create()(`http://pictures.test:${port}/`, never, param), 'failed_to_download_image')
  })

  test('an empty file', async () => {
    const port = await serve((_, response) => response.end())
    await expectFailure(create()(`http://pictures.test:${port}/`, never, param), 'empty_image_file')
  })
})

describe('a client that leaves', () => {
  const reason = new Error('the client left')

  test.each([
    ['before the head', ''],
    ['within the body', 'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc'],
    ['within a body without a length', 'HTTP/1.1 200 OK\r\n\r\nabc'],
  ])('%s closes the connection at once, and the reason comes back', async (_, head) => {
    const { promise: closed, resolve: onClosed } = Promise.withResolvers<void>()
    const { promise: reached, resolve: onReached } = Promise.withResolvers<void>()
    const port = await respond(head, socket => {
      socket.resume()
      socket.on('close', () => onClosed())
      onReached()
    })
    const client = new AbortController()
    const outcome = create()(`http://pictures.test:${port}/`, client.signal, param).catch(
      (cause: unknown) => cause,
    )
    await reached
    client.abort(reason)
    expect(await outcome).toBe(reason)
    await closed
  })

  test('during the look-up', async () => {
    const client = new AbortController()
    const outcome = create({ resolve: () => new Promise(() => undefined) })(
      'http://x.test/',
      client.signal,
      param,
    )
    client.abort(reason)
    expect(await outcome.catch((cause: unknown) => cause)).toBe(reason)
  })

  test('before the start: no look-up', async () => {
    let asked = 0
    const fetchImage = create({ resolve: async () => [`127.0.0.${++asked}`] })
    const outcome = fetchImage('http://x.test/', AbortSignal.abort(reason), param)
    expect(await outcome.catch((cause: unknown) => cause)).toBe(reason)
    expect(asked).toBe(0)
  })
})
