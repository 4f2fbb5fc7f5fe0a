/**
 * Refusals that need no more than a request's headers: a key that acts for nobody, a request limit that is full. Who
 * hammers at a closed door is answered at the door, before the app and before the body is read.
 *
 * The plain version is the app's own chain of `authenticate` and `limit`: the answers are made by the same functions,
 * a test holds both equal, and whatever is not plain to see is left to the app. Measured against it, a refusal costs
 * a fourth of the CPU (docs/performance.md).
 */
import { type Fault, statusOf, toErrorBody } from '../errors.ts'
import { toRequestId } from '../ids.ts'
import type { Demand, WindowStore } from '../limits/admission.ts'
import type { Principals } from '../principals.ts'
import type { createTally } from '../tally.ts'
import { bearerToken, KEY_LENGTH_MAX, toKeyFault } from './auth.ts'
import { toLimitFault, writeLimitHeaders } from './limit.ts'

export type EarlyDeps = {
  principals: Principals
  windows: WindowStore
  tally: ReturnType<typeof createTally>
  ids: { next: () => number }
  steady: () => number
  /** With these, answers carry headers that are the app's to make. */
  corsOrigins: readonly string[]
}

const meteredPaths = new Set(['/v1/chat/completions', '/v1/completions', '/v1/embeddings'])

const pathOf = (url: string) => url.slice(url.indexOf('/', 'https://'.length))

/**
 * More than any request with a body of so many bytes can need: an image's address of a few letters may stand for
 * thousands of tokens. Where even this fits under the token limits, or would fit sooner than one more request does,
 * the request limit is the one to name, whatever the body says.
 */
const atMost = (bytes: number): Demand => ({ prompt: 65_536 + 64 * bytes, usual: 1_048_576 })

/** The answer carries a copy of these, and a header set on it is cheaper than one in an object. */
const sameForAll = new Headers({
  'content-type': 'application/json',
  'openai-version': '2020-10-01',
  'openai-processing-ms': '0',
})

export const createEarlyRefusal = (deps: EarlyDeps): ((request: Request) => Response | undefined) => {
  const { principals, windows, tally, ids, steady } = deps

  const refuse = ({ kind, message, headers: own }: Fault): Response => {
    const status = statusOf(kind)
    const body = toErrorBody(kind, message)
    tally.count({ status, body })
    const response = new Response(JSON.stringify(body), { status, headers: sameForAll })
    const { headers } = response
    headers.set('x-request-id', toRequestId(ids.next()))
    for (const name in own) headers.set(name, own[name] as string)
    return response
  }

  const refuseByLimit = (request: Request, user: number, limits: Parameters<WindowStore['view']>[1]) => {
    if (limits.requestsPerMinute === null && limits.requestsPerDay === null) return undefined
    const length = request.headers.get('content-length')
    if (length === null || request.headers.get('content-encoding') !== null) return undefined
    const nowMs = steady()
    const refusal = windows.refusal(user, limits, atMost(Number(length)), nowMs)
    if (refusal?.limit !== 'requestsPerMinute' && refusal?.limit !== 'requestsPerDay') return undefined
    const response = refuse(toLimitFault(refusal))
    writeLimitHeaders(windows.view(user, limits, 0, nowMs), nowMs, (name, value) =>
      response.headers.set(name, value),
    )
    return response
  }

  return request => {
    if (request.method !== 'POST' || !meteredPaths.has(pathOf(request.url))) return undefined
    if (deps.corsOrigins.length > 0 || request.headers.get('x-request-id') !== null) return undefined
    const key = bearerToken(request.headers.get('authorization'))
    if (key === undefined || key.length > KEY_LENGTH_MAX) return refuse(toKeyFault(key))
    const caller = principals.recall(key)
    if (caller === null) return undefined
    if (caller === undefined) return refuse(toKeyFault(key))
    return refuseByLimit(request, caller.account.userNumber, caller.account.limits)
  }
}
