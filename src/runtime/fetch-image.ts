/**
 * Fetching an image from a URL that a client wrote, without lending that client the proxy's place in the network.
 *
 * The name is resolved once, every address is vetted, and the connection goes to a vetted address itself: no second
 * look-up that a rebinding name server could answer differently. `node:http` is used because it takes an address and
 * a TLS server name apart, follows no redirects, unpacks nothing and knows no proxy variables; Bun's `fetch` sends
 * its request to `HTTPS_PROXY` whatever options it is given.
 */
import { lookup } from 'node:dns/promises'
import http, { type IncomingMessage } from 'node:http'
import https from 'node:https'
import { isIP } from 'node:net'
import { ApiError } from '../errors.ts'
import { isPublicAddress } from './addresses.ts'

const REDIRECTS_MAX = 3
/** A name with a hundred addresses must not make the proxy knock at a hundred doors. */
const ADDRESSES_TRIED_MAX = 4
const redirects = new Set([301, 302, 303, 307, 308])

/** OpenAI's codes for images (openai-api.md §3.2). */
type Code = 'invalid_image_url' | 'failed_to_download_image' | 'image_too_large' | 'empty_image_file'
type Fault = (code: Code, message: string, cause?: unknown) => ApiError

export type ImageFetcherOptions = {
  /** `public`: only hosts whose every address is public; `all`: any host; `off`: nothing is fetched. */
  mode: 'off' | 'public' | 'all'
  maxBytes: number
  /** For the whole: name look-up, redirects, every byte. */
  timeoutMs: number
  /** The longest silence, default 10 s. */
  idleTimeoutMs?: number
  /** All addresses of a host name; default: the system's resolver. */
  resolve?: (host: string) => Promise<string[]>
  /** Which addresses `public` lets through; default: those of the public internet. */
  isPublic?: (address: string) => boolean
  /** Certificate authorities in PEM, instead of the usual ones. */
  ca?: string
}

/**
 * Downloads one http(s) URL and returns its bytes, unpacked and unchecked: what they are is for `sniffImageType`.
 * `param` is the field that held the URL, for the error. When `signal` aborts, the socket closes at once and the
 * promise rejects with the signal's reason.
 *
 * @throws ApiError 400 with `invalid_image_url` (not a URL we may fetch), `failed_to_download_image`,
 * `image_too_large` or `empty_image_file`. Messages name no address.
 */
type FetchImage = (url: string, signal: AbortSignal, param: string) => Promise<Uint8Array>

const resolveBySystem = async (host: string): Promise<string[]> =>
  (await lookup(host, { all: true })).map(({ address }) => address)

/** The host as resolvers, TLS and `isIP` want it: no brackets, no final dot. */
const hostOf = (url: URL): string => url.hostname.replace(/^\[|\]$|\.$/g, '')

const parseTarget = (text: string, base: URL | undefined, fault: Fault): URL => {
  const url = URL.parse(text, base?.href)
  if (url === null) throw fault('invalid_image_url', 'The image URL is not a valid URL.')
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw fault('invalid_image_url', 'The image URL must begin with http:// or https://.')
  if (url.username !== '' || url.password !== '')
    throw fault('invalid_image_url', 'The image URL must not contain a user name or password.')
  if (base?.protocol === 'https:' && url.protocol === 'http:')
    throw fault('invalid_image_url', 'The image URL redirects from https to http.')
  return url
}

/** One GET to `address` in the name of `url`'s host; resolves with the response's head. */
const request = (url: URL, address: string, signal: AbortSignal, ca: string | undefined) =>
  new Promise<IncomingMessage>((resolve, reject) => {
    const secure = url.protocol === 'https:'
    const host = hostOf(url)
    const options: https.RequestOptions = {
      host: address,
      path: url.pathname + url.search,
      agent: false,
      signal,
      headers: {
        host: url.host,
        accept: 'image/*',
        'accept-encoding': 'identity',
        'user-agent': 'ai-usage-proxy',
      },
      ...(url.port !== '' && { port: url.port }),
      // An address is no TLS server name; its certificate is then checked against the address.
      ...(secure && { servername: isIP(host) === 0 ? host : '', rejectUnauthorized: true }),
      ...(secure && ca !== undefined && { ca }),
    }
    const outgoing = (secure ? https : http).request(options, response => {
      // Without a listener the abort that ends an unread response would be an uncaught error.
      response.on('error', () => undefined)
      resolve(response)
    })
    outgoing.on('error', reject)
    outgoing.on('close', () => reject(new Error('closed before a response')))
    outgoing.end()
  })

/** The first of `addresses` that answers; connections that fail leave the next one its turn. */
const open = async (url: URL, addresses: string[], signal: AbortSignal, ca: string | undefined) => {
  let failure: unknown
  for (const address of addresses.slice(0, ADDRESSES_TRIED_MAX)) {
    try {
      return await request(url, address, signal, ca)
    } catch (cause) {
      if (signal.aborted) throw cause
      failure = cause
    }
  }
  throw failure
}

const collect = async (response: IncomingMessage, maxBytes: number, onBytes: () => void, fault: Fault) => {
  const tooLarge = () => fault('image_too_large', `The image is larger than the limit of ${maxBytes} bytes.`)
  // Number('abc') is NaN and compares false: the count below decides then.
  if (Number(response.headers['content-length']) > maxBytes) throw tooLarge()
  const chunks: Uint8Array[] = []
  let received = 0
  for await (const chunk of response as AsyncIterable<Uint8Array>) {
    onBytes()
    received += chunk.length
    if (received > maxBytes) throw tooLarge()
    chunks.push(chunk)
  }
  if (received === 0) throw fault('empty_image_file', 'The image URL leads to an empty file.')
  const bytes = new Uint8Array(received)
  let offset = 0
  for (const chunk of chunks) {
    bytes.set(chunk, offset)
    offset += chunk.length
  }
  return bytes
}

export const createImageFetcher = ({
  mode,
  maxBytes,
  timeoutMs,
  idleTimeoutMs = 10_000,
  resolve = resolveBySystem,
  isPublic = isPublicAddress,
  ca,
}: ImageFetcherOptions): FetchImage => {
  /** The addresses of the host, each of them one we may connect to. */
  const vet = async (url: URL, signal: AbortSignal, fault: Fault): Promise<string[]> => {
    const host = hostOf(url)
    const addresses = isIP(host) === 0 ? await unless(signal, resolve(host)) : [host]
    if (addresses.length === 0)
      throw fault('failed_to_download_image', 'The host of the image URL was not found.')
    if (mode === 'public' && !addresses.every(isPublic))
      throw fault('invalid_image_url', 'The image URL does not lead to a public internet host.')
    // IPv4 first: many servers have an IPv6 stack that leads nowhere.
    return addresses.toSorted((a, b) => isIP(a) - isIP(b))
  }

  const download = async (text: string, signal: AbortSignal, onBytes: () => void, fault: Fault) => {
    let url = parseTarget(text, undefined, fault)
    for (let hops = 0; hops <= REDIRECTS_MAX; hops++) {
      const response = await open(url, await vet(url, signal, fault), signal, ca)
      onBytes()
      const status = response.statusCode ?? 0
      const location = response.headers.location
      if (redirects.has(status) && location !== undefined) {
        response.destroy()
        url = parseTarget(location, url, fault)
        continue
      }
      if (status < 200 || status > 299)
        throw fault(
          'failed_to_download_image',
          `The image could not be downloaded: its server answered ${status}.`,
        )
      // We asked for none; unpacking would let a kilobyte become a gigabyte.
      if ((response.headers['content-encoding'] ?? 'identity') !== 'identity')
        throw fault(
          'failed_to_download_image',
          'The image could not be downloaded: its server sends it compressed.',
        )
      return collect(response, maxBytes, onBytes, fault)
    }
    throw fault('failed_to_download_image', `The image URL redirects more than ${REDIRECTS_MAX} times.`)
  }

  return async (url, signal, param) => {
    const fault: Fault = (code, message, cause) =>
      new ApiError('invalid_request', message, { param, code, cause })
    if (mode === 'off')
      throw fault(
        'invalid_image_url',
        'This server does not fetch image URLs; send the image as a base64 data URL.',
      )
    signal.throwIfAborted()
    const stop = new AbortController()
    const expire = (message: string) => () => stop.abort(fault('failed_to_download_image', message))
    const total = setTimeout(expire(`The image was not downloaded within ${timeoutMs / 1000} s.`), timeoutMs)
    const idle = setTimeout(expire('The server of the image fell silent.'), idleTimeoutMs)
    const leave = () => stop.abort(signal.reason)
    signal.addEventListener('abort', leave, { once: true })
    try {
      const bytes = await download(url, stop.signal, () => idle.refresh(), fault)
      // A body without a length ends cleanly when its socket is closed, also when it is we who closed it.
      stop.signal.throwIfAborted()
      return bytes
    } catch (cause) {
      if (stop.signal.aborted) throw stop.signal.reason
      throw cause instanceof ApiError
        ? cause
        : fault('failed_to_download_image', 'The image could not be downloaded.', cause)
    } finally {
      clearTimeout(total)
      clearTimeout(idle)
      signal.removeEventListener('abort', leave)
      stop.abort() // closes whatever socket is left
    }
  }
}

/** The promise, or a rejection as soon as the signal aborts: a name look-up cannot be cancelled, only left. */
const unless = <Value>(signal: AbortSignal, promise: Promise<Value>): Promise<Value> =>
  new Promise((resolve, reject) => {
    const leave = () => reject(signal.reason)
    signal.addEventListener('abort', leave, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', leave))
  })
