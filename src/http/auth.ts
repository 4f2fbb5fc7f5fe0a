/** Who is calling: a client by its key, the admin by the one admin key. Deny by default. */
import type { Context, MiddlewareHandler } from 'hono'
import { DEFAULT_ADMIN_KEY } from '../config.ts'
import { ApiError, type Fault } from '../errors.ts'
import type { Principals } from '../principals.ts'
import type { AppEnv } from './env.ts'

/**
 * The token of an `Authorization: Bearer …` header (scheme in any case), or undefined. Cut out by hand: a regular
 * expression with a group takes a twentieth of what a refused request costs.
 */
export const bearerToken = (authorization: string | null | undefined): string | undefined => {
  if (authorization == null) return undefined
  if (!authorization.startsWith('Bearer ') && !/^bearer /i.test(authorization)) return undefined
  const token = authorization.slice('Bearer '.length).trim()
  return token === '' || token.includes(' ') || token.includes('\t') ? undefined : token
}

const challenge = { 'www-authenticate': 'Bearer realm="ai-usage-proxy"' }

/** What may be shown of a key in an error: never enough to use it. */
const masked = (key: string) => (key.length > 12 ? `${key.slice(0, 3)}…${key.slice(-4)}` : '…')

/** Longer than any key of ours (sk- + 64 + - + 44); a megabyte of header must not be hashed. */
export const KEY_LENGTH_MAX = 256

const missingKey: Fault = {
  kind: 'missing_key',
  message:
    "You didn't provide an API key. Send it in the Authorization header: `Authorization: Bearer YOUR_KEY`.",
  headers: challenge,
}

/** What a client is told whose key is missing (undefined) or acts for nobody. */
export const toKeyFault = (key: string | undefined): Fault =>
  key === undefined
    ? missingKey
    : {
        kind: 'invalid_api_key',
        message: `Incorrect API key provided: ${masked(key)}.`,
        headers: challenge,
      }

/** `sk-{user_id}-{random}` → the caller. 401 otherwise. */
export const authenticate = (principals: Principals): MiddlewareHandler<AppEnv> =>
  async function authenticateClient(c, next) {
    const key = bearerToken(c.req.header('authorization'))
    const caller = key === undefined || key.length > KEY_LENGTH_MAX ? undefined : await principals.find(key)
    if (caller === undefined) {
      const { kind, message, headers } = toKeyFault(key)
      throw new ApiError(kind, message, { headers })
    }
    c.set('caller', caller)
    await next()
  }

const LOOPBACK_HOST = /^(localhost|127(?:\.\d{1,3}){3}|\[::1\])(:\d+)?$/i
const FORWARDING_HEADERS = ['forwarded', 'x-forwarded-for', 'x-real-ip', 'via', 'cf-connecting-ip']

export type AdminAuthDeps = {
  adminApiKey: string
  /** SHA-256 as hex; comparing digests of equal length bit by bit takes the same time whatever was sent. */
  sha256: (text: string) => string
  /** Whether the connection itself comes from this machine; false where the platform can't tell. */
  isLoopback: (request: Request) => boolean
}

const equalDigests = (a: string, b: string): boolean => {
  let difference = a.length ^ b.length
  for (let index = 0; index < a.length; index++) difference |= a.charCodeAt(index) ^ b.charCodeAt(index)
  return difference === 0
}

/**
 * The published default key is honoured only for a connection from loopback to a loopback name, without a forwarding
 * header and without an Origin of another host: a page that rebinds its name to 127.0.0.1 must not reach it.
 */
const mayUseDefault = (c: Context, isLoopback: boolean): boolean => {
  const host = c.req.header('host') ?? ''
  const origin = c.req.header('origin')
  const sameHost = origin === undefined || (URL.canParse(origin) && LOOPBACK_HOST.test(new URL(origin).host))
  const forwarded = FORWARDING_HEADERS.some(name => c.req.header(name) !== undefined)
  return isLoopback && LOOPBACK_HOST.test(host) && sameHost && !forwarded
}

/** `Authorization: Bearer {ADMIN_API_KEY}`; 401 when missing, 403 when wrong or not honoured from there. */
export const requireAdmin = ({
  adminApiKey,
  sha256,
  isLoopback,
}: AdminAuthDeps): MiddlewareHandler<AppEnv> => {
  const expected = sha256(adminApiKey)
  return async function authenticateAdmin(c, next) {
    const key = bearerToken(c.req.header('authorization'))
    if (key === undefined) {
      throw new ApiError('missing_admin_key', 'This endpoint needs `Authorization: Bearer ADMIN_API_KEY`.', {
        headers: challenge,
      })
    }
    if (!equalDigests(sha256(key.slice(0, 4096)), expected))
      throw new ApiError('invalid_admin_key', 'The admin key is not correct.')
    if (adminApiKey === DEFAULT_ADMIN_KEY && !mayUseDefault(c, isLoopback(c.req.raw))) {
      throw new ApiError(
        'default_admin_key',
        'The default admin key is honoured only from this machine itself. Set ADMIN_API_KEY to a secret of your own and restart.',
      )
    }
    await next()
  }
}
