/** A request's JSON body: bounded, unpacked, decoded strictly, checked. Everything wrong is an OpenAI-shaped 4xx. */
import type { MiddlewareHandler } from 'hono'
import type { z } from 'zod'
import { ApiError, invalid } from '../errors.ts'
import { toInvalidRequest } from '../wire/invalid-request.ts'
import type { AppEnv } from './env.ts'

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

export const readBytes = async (request: Request, bytesMax: number): Promise<Uint8Array> => {
  const declared = Number(request.headers.get('content-length') ?? '0')
  if (declared > bytesMax) throw tooLarge(bytesMax)
  if (request.headers.get('content-encoding') === null && declared > 0)
    return new Uint8Array(await request.arrayBuffer())
  const body = unpack(request)
  if (body === null) return new Uint8Array()
  const chunks: Uint8Array[] = []
  let length = 0
  const reader = body.getReader() as ReadableStreamDefaultReader<Uint8Array>
  for (;;) {
    const { done, value } = await reader.read().catch(cause => {
      throw new ApiError('invalid_request', 'The request body could not be read.', { cause })
    })
    if (done) break
    length += value.length
    if (length > bytesMax) {
      reader.cancel().catch(() => undefined)
      throw tooLarge(bytesMax)
    }
    chunks.push(value)
  }
  const whole = new Uint8Array(length)
  let offset = 0
  for (const chunk of chunks) {
    whole.set(chunk, offset)
    offset += chunk.length
  }
  return whole
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

const isJsonType = (type: string | undefined) => type === undefined || /^[^;]*\bjson\b/i.test(type)

/** Reads, parses and checks a JSON body; puts it on the context as `body`. */
export const jsonBody = (schema: z.ZodType, bytesMax: number): MiddlewareHandler<AppEnv> =>
  async function readJsonBody(c, next) {
    if (!isJsonType(c.req.header('content-type'))) {
      throw new ApiError(
        'unsupported_media_type',
        'The request body must be JSON: send `Content-Type: application/json`.',
      )
    }
    const value = parseJson(await readBytes(c.req.raw, bytesMax))
    const parsed = schema.safeParse(value)
    if (!parsed.success) throw toInvalidRequest(parsed.error, value)
    c.set('body', parsed.data)
    await next()
  }
