/**
 * Refusals at the door: a key that acts for nobody, a request limit that is full, and whatever else the limits refuse to
 * a key that they refused a moment ago. Who hammers at a closed door is answered there, before the app.
 *
 * The plain version is the app's own chain of `authenticate`, `prepare` and `limit`: the answers are made by the same
 * functions, a test holds both equal, and whatever is not plain to see is left to the app. One thing differs: where a
 * full request limit is told without a look at the body, nobody hears what is wrong with it. Measured against the app, a
 * refusal costs a third of the CPU, or less than half where its body is read (docs/performance.md).
 */
import { codeOf, type Fault, statusOf, toErrorText } from '../errors.ts'
import { toRequestId } from '../ids.ts'
import type { Demand, Refusal, WindowStore } from '../limits/admission.ts'
import { toDemand } from '../limits/forecast.ts'
import type { Account, Caller, Principals } from '../principals.ts'
import type { createTally } from '../tally.ts'
import { choicesMax } from '../wire/openai.ts'
import { bearerToken, KEY_LENGTH_MAX, toKeyFault } from './auth.ts'
import { isJsonType } from './body.ts'
import type { AppEnv, Early } from './env.ts'
import { isOfTokens, toLimitFault, writeLimitHeaders } from './limit.ts'
import { type Foresight, TRUNCATED_HEADER } from './prepare.ts'

export type EarlyDeps = {
  /** Those of the metered endpoints that take JSON. */
  paths: readonly string[]
  principals: Pick<Principals, 'recall'>
  windows: WindowStore
  /** Who was refused by a limit and of whose bodies none that was read here had room since. */
  refusedLately: WeakSet<Caller>
  tally: ReturnType<typeof createTally>
  ids: { next: () => number }
  now: () => number
  steady: () => number
  /** The server is stopping: only the app answers. */
  isDraining: () => boolean
  /** What a body would need; undefined for what the app refuses for another reason. */
  foresee: (
    caller: Caller,
    path: string,
    body: Uint8Array,
  ) => Foresight | undefined | Promise<Foresight | undefined>
  /** With these, answers carry headers that are the app's to make. */
  corsOrigins: readonly string[]
}

/** Compared in place: a path cut out of the address would be a new text to hash at each request. */
const pathOf = (url: string, paths: readonly string[]): string | undefined => {
  const length = url.length - url.indexOf('/', 'https://'.length)
  return paths.find(path => path.length === length && url.endsWith(path))
}

/**
 * More than any request with a body of so many bytes can need: an image's address of a few letters may stand for
 * thousands of tokens, and the prompt counts once a choice. Where even this fits under the token limits, or would fit
 * sooner than one more request does, the request limit is the one to name, whatever the body says.
 */
const atMost = (bytes: number): Demand => {
  const prompt = (65_536 + 64 * bytes) * choicesMax
  return { prompt, usual: prompt }
}

/**
 * The headers of one refusal after another. From one to the next few differ, and setting one costs more than copying
 * all: only what changed is set anew, and each answer takes a copy.
 */
class RefusalHeaders {
  readonly #headers = new Headers()
  readonly #names: string[] = []
  readonly #values: string[] = []
  #count = 0

  /** The next refusal's headers follow, each name once and always in the same order. */
  begin() {
    this.#count = 0
  }

  add(name: string, value: string) {
    const place = this.#count++
    if (this.#names[place] !== name) this.#dropFrom(place)
    if (this.#values[place] === value) return
    this.#headers.set(name, value)
    this.#names[place] = name
    this.#values[place] = value
  }

  /** To be copied before the next `begin`. */
  end(): Headers {
    this.#dropFrom(this.#count)
    return this.#headers
  }

  #dropFrom(place: number) {
    for (let later = place; later < this.#names.length; later++)
      this.#headers.delete(this.#names[later] as string)
    this.#names.length = Math.min(this.#names.length, place)
    this.#values.length = this.#names.length
  }
}

/** Longer bodies cost more to read than the app's part of the answer, so that little is saved. */
const READ_BYTES_MAX = 64 * 1024

type Answer = Response | Promise<Response>

/** Undefined: the app has to look at this request. `app` answers what turned out so only when its body was read. */
export const createEarlyRefusal = (
  deps: EarlyDeps,
  app: (request: Request, bindings: AppEnv['Bindings']) => Answer,
): ((request: Request) => Answer | undefined) => {
  const { principals, windows, refusedLately, foresee, tally, ids, now, steady } = deps

  const headers = new RefusalHeaders()
  const addHeader = (name: string, value: string) => headers.add(name, value)

  const refuse = (
    { kind, message, headers: own }: Fault,
    id = ids.next(),
    tookMs = 0,
    addMore?: () => void,
  ): Response => {
    const status = statusOf(kind)
    tally.count(status, codeOf(kind))
    headers.begin()
    headers.add('content-type', 'application/json')
    headers.add('openai-version', '2020-10-01')
    headers.add('openai-processing-ms', String(tookMs))
    headers.add('x-request-id', toRequestId(id))
    for (const name in own) headers.add(name, own[name] as string)
    addMore?.()
    return new Response(toErrorText(kind, message), { status, headers: headers.end() })
  }

  const refuseByLimit = (
    refusal: Refusal,
    { userNumber, limits }: Account,
    nowMs: number,
    early?: Early,
  ): Response => {
    const tookMs = early === undefined ? 0 : Math.round(nowMs - early.arrivedSteadyMs)
    return refuse(toLimitFault(refusal), early?.id, tookMs, () =>
      writeLimitHeaders(windows.view(userNumber, limits, 0, nowMs), nowMs, addHeader),
    )
  }

  const refuseByRequests = (account: Account, bytes: number): Response | undefined => {
    const { userNumber, limits } = account
    if (limits.requestsPerMinute === null && limits.requestsPerDay === null) return undefined
    const nowMs = steady()
    const refusal = windows.refusal(userNumber, limits, atMost(bytes), nowMs)
    if (refusal === undefined || isOfTokens(refusal)) return undefined
    return refuseByLimit(refusal, account, nowMs)
  }

  const refuseByBody = async (request: Request, path: string, caller: Caller): Promise<Response> => {
    const { account } = caller
    const arrived = { id: ids.next(), arrivedMs: now(), arrivedSteadyMs: steady() }
    let body: Uint8Array
    try {
      body = await request.bytes()
    } catch {
      // Broken off: the app says so in its own way.
      return app(request, {})
    }
    const early: Early = { ...arrived, body }
    const foresight = foresee(caller, path, body)
    const foreseen = foresight instanceof Promise ? await foresight : foresight
    const nowMs = steady()
    const { userNumber, limits } = account
    const refusal =
      foreseen && windows.refusal(userNumber, limits, toDemand(foreseen.forecast, limits), nowMs)
    if (refusal === undefined || deps.isDraining()) return app(request, { early })
    const response = refuseByLimit(refusal, account, nowMs, early)
    if (foreseen?.isTruncated === true) response.headers.set(...TRUNCATED_HEADER)
    return response
  }

  return request => {
    if (request.method !== 'POST' || deps.isDraining()) return undefined
    const path = pathOf(request.url, deps.paths)
    if (path === undefined) return undefined
    const { headers } = request
    if (deps.corsOrigins.length > 0 || headers.get('x-request-id') !== null) return undefined
    const key = bearerToken(headers.get('authorization'))
    if (key === undefined || key.length > KEY_LENGTH_MAX) return refuse(toKeyFault(key))
    const caller = principals.recall(key)
    if (caller === null) return undefined
    if (caller === undefined) return refuse(toKeyFault(key))
    const length = headers.get('content-length')
    if (length === null || headers.get('content-encoding') !== null) return undefined
    const bytes = Number(length)
    const refused = refuseByRequests(caller.account, bytes)
    if (refused !== undefined || !refusedLately.has(caller)) return refused
    const isReadable = bytes <= READ_BYTES_MAX && isJsonType(headers.get('content-type'))
    return isReadable ? refuseByBody(request, path, caller) : undefined
  }
}
