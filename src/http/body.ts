/** A request's JSON body: bounded, unpacked, decoded strictly, checked. Everything wrong is an OpenAI-shaped 4xx. */
import type { Context, MiddlewareHandler } from 'hono'
import { ApiError, invalid } from '../errors.ts'
import { type AppEnv, earlyOf } from './env.ts'
import { type BeginLargeBody, LARGE_BYTES, type LargeBody, type LargeChat } from './large-body.ts'
import type { Order } from './order.ts'

const tooLarge = (bytesMax: number) =>
  new ApiError(
    'request_too_large',
    `The request body is larger than ${Math.floor(bytesMax / 1024 / 1024)} MB.`,
  )

const ENCODINGS: Record<string, string> = { gzip: 'gzip', 'x-gzip': 'gzip', zstd: 'zstd', deflate: 'deflate' }

/** The body's bytes after unpacking, at most `bytesMax`: a small body must not unpack into a large one. */
const unpack = (request: Request): ReadableStream<Uint8Array> | null => {
  const encoding = request.headers.get('content-encoding')?.trim().toLowerCase()
  if (encoding === undefined || encoding === '' || encoding === 'identity' || request.body === null)
    return request.body
  const format = ENCODINGS[encoding]
  if (format === undefined) {
    throw new ApiError(
      'unsupported_media_type',
      `Content-Encoding '${encoding.slice(0, 32)}' is not supported; use gzip, zstd or deflate.`,
    )
  }
  // The types list no zstd yet; a runtime that lacks it throws here.
  return request.body.pipeThrough(new DecompressionStream(format as 'gzip'))
}

/** Whoever sent it has left, or what it was packed with is broken. */
const brokenOff = (cause: unknown): never => {
  throw new ApiError('invalid_request', 'The request body could not be read.', { cause })
}

/** The body's bytes as they come, unpacked. @throws ApiError 413 past `bytesMax`, 400 for what breaks off */
async function* chunksOf(request: Request, bytesMax: number): AsyncGenerator<Uint8Array> {
  const body = unpack(request)
  if (body === null) return
  let length = 0
  const reader = body.getReader() as ReadableStreamDefaultReader<Uint8Array>
  for (;;) {
    const { done, value } = await reader.read().catch(brokenOff)
    if (done) return
    length += value.length
    if (length > bytesMax) {
      reader.cancel().catch(() => undefined)
      throw tooLarge(bytesMax)
    }
    yield value
  }
}

const readWhole = async (request: Request): Promise<Uint8Array> =>
  new Uint8Array(await request.arrayBuffer().catch(brokenOff))

export const joined = (chunks: readonly Uint8Array[]): Uint8Array<ArrayBuffer> => {
  const whole = new Uint8Array(chunks.reduce((length, chunk) => length + chunk.length, 0))
  let offset = 0
  for (const chunk of chunks) {
    whole.set(chunk, offset)
    offset += chunk.length
  }
  return whole
}

/** The length that a body without an encoding declares; undefined where only reading it will tell. */
const declaredLength = (request: Request, bytesMax: number): number | undefined => {
  const declared = Number(request.headers.get('content-length') ?? '0')
  if (declared > bytesMax) throw tooLarge(bytesMax)
  return declared > 0 && request.headers.get('content-encoding') === null ? declared : undefined
}

export const readBytes = async (request: Request, bytesMax: number): Promise<Uint8Array> => {
  if (declaredLength(request, bytesMax) !== undefined) return readWhole(request)
  const chunks: Uint8Array[] = []
  for await (const chunk of chunksOf(request, bytesMax)) chunks.push(chunk)
  return joined(chunks)
}

/** The bytes, or a body that turned out large and was handed over whole. */
const readOrHandOver = async (
  request: Request,
  bytesMax: number,
  begin: NonNullable<BeginLargeBody>,
): Promise<Uint8Array | LargeBody> => {
  const declared = declaredLength(request, bytesMax)
  if (declared !== undefined && declared <= LARGE_BYTES) return readWhole(request)
  const chunks: Uint8Array[] = []
  let length = 0
  let large: LargeBody | undefined
  try {
    for await (const chunk of chunksOf(request, bytesMax)) {
      length += chunk.length
      if (large !== undefined) large.add(chunk)
      else chunks.push(chunk)
      if (large !== undefined || length <= LARGE_BYTES) continue
      large = begin()
      for (const early of chunks) large.add(early)
    }
  } catch (error) {
    large?.drop()
    throw error
  }
  return large ?? joined(chunks)
}

const notJson = (cause?: unknown) =>
  new ApiError('invalid_request', 'The request body could not be parsed as JSON.', { cause })

/** A string with half a surrogate pair is no text: Ollama would see a replacement character instead. */
const hasLoneSurrogate = (value: unknown): boolean => {
  if (typeof value === 'string') return !value.isWellFormed()
  if (typeof value !== 'object' || value === null) return false
  return Object.entries(value).some(([key, inner]) => !key.isWellFormed() || hasLoneSurrogate(inner))
}

const SURROGATE_ESCAPE = /\\u[dD][89a-fA-F]/
const decoder = new TextDecoder('utf-8', { fatal: true })

/** @throws ApiError 400 for what is not UTF-8, not JSON, or holds half characters. */
export const parseJson = (bytes: Uint8Array): unknown => {
  let text: string
  let value: unknown
  try {
    text = decoder.decode(bytes)
    value = JSON.parse(text)
  } catch (cause) {
    throw notJson(cause)
  }
  if (SURROGATE_ESCAPE.test(text) && hasLoneSurrogate(value)) {
    throw invalid(null, 'The request body holds a string with half of a surrogate pair.')
  }
  return value
}

/** What a JSON body may call itself; nothing at all is taken for JSON. */
export const isJsonType = (type: string | null | undefined): boolean =>
  type == null || type === 'application/json' || /^[^;]*\bjson\b/i.test(type)

const requireJson = (c: Context) => {
  if (isJsonType(c.req.header('content-type'))) return
  throw new ApiError(
    'unsupported_media_type',
    'The request body must be JSON: send `Content-Type: application/json`.',
  )
}

/** A request's JSON body, parsed. @throws ApiError 400, 413, 415 */
export const readJson = async (c: Context<AppEnv>, bytesMax: number): Promise<unknown> => {
  requireJson(c)
  return parseJson(earlyOf(c)?.body ?? (await readBytes(c.req.raw, bytesMax)))
}

/** What is asked for in a JSON body. @throws ApiError 400 */
export type ToOrder = (json: unknown) => Order

/** Puts on the context what a dialect's JSON body asks for. */
export const orderBody = (toOrder: ToOrder, bytesMax: number): MiddlewareHandler<AppEnv> =>
  async function readOrder(c, next) {
    c.set('order', toOrder(await readJson(c, bytesMax)))
    await next()
  }

/** The same for chat, whose large bodies are translated off the event loop where the platform can. */
export const chatBody = (
  { fromJson, fromLarge }: { fromJson: ToOrder; fromLarge: (chat: LargeChat) => Order },
  bytesMax: number,
  begin: BeginLargeBody,
): MiddlewareHandler<AppEnv> => {
  if (begin === undefined) return orderBody(fromJson, bytesMax)
  return async function readChatOrder(c, next) {
    requireJson(c)
    const read = earlyOf(c)?.body ?? (await readOrHandOver(c.req.raw, bytesMax, begin))
    if (read instanceof Uint8Array) {
      c.set('order', fromJson(parseJson(read)))
      return next()
    }
    const outline = await read.end().catch(error => {
      read.drop()
      throw error
    })
    if (outline instanceof Uint8Array) {
      c.set('order', fromJson(parseJson(outline)))
      return next()
    }
    c.set('order', fromLarge({ outline, body: read }))
    try {
      await next()
    } finally {
      // What the relay took is dropped when its flight ends.
      if (c.get('ticket')?.taken !== true) read.drop()
    }
  }
}
