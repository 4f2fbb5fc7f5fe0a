/**
 * The map: every route and its middleware, in reading order. Order on the page is order of execution, and `onError`
 * is the only exit for errors.
 */
import { type Context, Hono } from 'hono'
import { cors } from 'hono/cors'
import { HTTPException } from 'hono/http-exception'
import type { Config } from './config.ts'
import { ApiError, tooDeep } from './errors.ts'
import type { FlightOutcome } from './flight.ts'
import { accountRoutes } from './http/account.ts'
import { adminRoutes } from './http/admin.ts'
import { authenticate, requireAdmin } from './http/auth.ts'
import { chatBody, orderBody } from './http/body.ts'
import { createChatOrders, uploadBody } from './http/chat.ts'
import { complete } from './http/complete.ts'
import { toCompletionOrder } from './http/completions.ts'
import { createEarlyRefusal } from './http/early.ts'
import { toEmbeddingOrder } from './http/embeddings.ts'
import { type AppEnv, earlyOf } from './http/env.ts'
import { createImageLoader, type ImageDeps } from './http/images.ts'
import type { BeginLargeBody } from './http/large-body.ts'
import { limit } from './http/limit.ts'
import { createForesight, prepare } from './http/prepare.ts'
import { publicRoutes } from './http/public.ts'
import { toRequestId } from './ids.ts'
import type { WindowStore } from './limits/admission.ts'
import type { Learnt } from './limits/learnt.ts'
import type { Log } from './log.ts'
import { createModels } from './models.ts'
import { type Caller, createPrincipals } from './principals.ts'
import { createRelay } from './relay.ts'
import type { Ledger } from './store/ledger.ts'
import type { Reports } from './store/reports.ts'
import type { Store } from './store/store.ts'
import { createTally } from './tally.ts'
import type { Ticker } from './ticker.ts'
import { createUpstream, type UpstreamDeps } from './upstream/ollama.ts'
import { createQueue } from './upstream/queue.ts'

/** All that varies with the platform or must be the same in every test: databases, clocks, chance, the network. */
export type Deps = {
  config: Config
  version: string
  store: Store
  reports: Reports
  ledger: Ledger
  windows: WindowStore
  learnt: Learnt
  ticker: Ticker
  /** Epoch milliseconds by the wall clock. */
  now: () => number
  /** Milliseconds that never go back; windows and deadlines are measured by it. */
  steady: () => number
  ids: { next: () => number }
  /** 256 random bits in base62. */
  newSecret: () => string
  newToolCallId: () => string
  /** SHA-256 as hex. */
  sha256: (text: string) => string
  fetch: UpstreamDeps['fetch']
  fetchImage: ImageDeps['fetchImage']
  sniffImageType: ImageDeps['sniffImageType']
  isLoopback: (request: Request) => boolean
  /** Takes the platform's idle timeout off a request whose body has been read: a cold model may load for minutes. */
  liftTimeout: (request: Request) => void
  isStorageFull: (error: unknown) => boolean
  beginLargeBody: BeginLargeBody
  log: Log
}

const exposedHeaders = [
  'x-request-id',
  'x-client-request-id',
  'x-ignored-parameters',
  'x-prompt-truncated',
  'x-should-retry',
  'retry-after',
  'retry-after-ms',
  'openai-processing-ms',
  'openai-version',
  ...['limit', 'remaining', 'reset'].flatMap(what => [
    `x-ratelimit-${what}-requests`,
    `x-ratelimit-${what}-tokens`,
  ]),
]

/** Below the runtime's own bound (--max-http-header-size), which answers without a body. */
const HEADERS_MAX = 64 * 1024

const CLIENT_REQUEST_ID = /^[\x20-\x7e]{1,128}$/

/** Lets 405 say which methods a path has; registered behind all routes. */
const answerOtherMethods = (app: Hono<AppEnv>) => {
  const methods = new Map<string, Set<string>>()
  for (const { path, method } of app.routes) {
    if (method === 'ALL') continue
    const known = methods.get(path) ?? new Set<string>()
    methods.set(path, known.add(method))
    if (method === 'GET') known.add('HEAD')
  }
  for (const [path, known] of methods) {
    const allow = [...known, 'OPTIONS'].join(', ')
    app.all(path, c => {
      if (c.req.method === 'OPTIONS') return c.body(null, 204, { allow })
      throw new ApiError('method_not_allowed', `${c.req.method} is not possible here, only ${allow}.`, {
        headers: { allow },
      })
    })
  }
}

export const createApp = (deps: Deps) => {
  const { config, store, windows, now, steady, log } = deps
  const upstream = createUpstream({ baseUrl: config.ollamaBaseUrl, fetch: deps.fetch, now })
  const principals = createPrincipals({
    store,
    sha256: deps.sha256,
    now,
    noteKeyUse: deps.ledger.noteKeyUse,
  })
  const models = createModels({ store, allowCloudModels: config.allowCloudModels })
  const queue = createQueue({
    concurrency: config.upstreamConcurrency,
    queueMax: config.queueMax,
    now: steady,
  })
  const refusedLately = new WeakSet<Caller>()
  const tally = createTally({ ticker: deps.ticker, steady, log })
  const relay = createRelay({
    ...deps,
    upstream,
    queue,
    timeouts: {
      firstByteMs: config.firstByteTimeoutMs,
      upstreamIdleMs: config.upstreamIdleTimeoutMs,
      clientStallMs: config.clientStallTimeoutMs,
    },
    observe: outcome => logOutcome(log, outcome),
  })
  const images = createImageLoader({
    ...deps,
    imageTypes: config.imageTypes,
    imageBytesMax: config.imageBytesMax,
    bodyBytesMax: config.bodyBytesMax,
  })
  const preparing = { learnt: deps.learnt, models, upstream, refuseTruncation: config.refuseTruncation }
  let draining = false

  const app = new Hono<AppEnv>({ strict: false })

  app.onError((error, c) => answerError(error, c))
  app.notFound(c => {
    throw new ApiError(
      'unknown_url',
      `Unknown request URL: ${c.req.method} ${c.req.path}. Is the base URL right? It ends in /v1.`,
    )
  })

  app.use(async function identify(c, next) {
    const early = earlyOf(c)
    const id = early?.id ?? deps.ids.next()
    c.set('id', id)
    c.set('arrivedMs', early?.arrivedMs ?? now())
    c.set('arrivedSteadyMs', early?.arrivedSteadyMs ?? steady())
    c.header('x-request-id', toRequestId(id))
    const clientId = c.req.header('x-request-id')
    if (clientId !== undefined && CLIENT_REQUEST_ID.test(clientId)) c.header('x-client-request-id', clientId)
    let headerLength = 0
    for (const [name, value] of c.req.raw.headers) headerLength += name.length + value.length
    if (headerLength > HEADERS_MAX) {
      throw new ApiError(
        'headers_too_large',
        `The request's headers are longer than ${HEADERS_MAX / 1024} KB.`,
      )
    }
    await next()
  })
  app.use('/v1/*', async function describe(c, next) {
    await next()
    c.res.headers.set('openai-version', '2020-10-01')
    c.res.headers.set('openai-processing-ms', String(Math.round(steady() - c.get('arrivedSteadyMs'))))
  })
  if (config.corsOrigins.length > 0) {
    const origin = config.corsOrigins.includes('*') ? '*' : [...config.corsOrigins]
    app.use(cors({ origin, exposeHeaders: exposedHeaders, maxAge: 86_400 }))
  }
  app.use(async function refuseWhileDraining(c, next) {
    if (draining && c.req.path !== '/health') {
      throw new ApiError('shutting_down', 'The server is shutting down. Please try again.', {
        headers: { 'retry-after': '5', connection: 'close' },
      })
    }
    await next()
  })

  const client = authenticate(principals)
  const limited = limit({
    windows,
    store,
    refusedLately,
    steady,
    modelId: models.numberOf,
    priceOf: models.priceOf,
  })
  const lift = async (c: Context<AppEnv>, next: () => Promise<void>) => {
    deps.liftTimeout(c.req.raw)
    await next()
  }
  const chat = createChatOrders(deps.newToolCallId)
  const dialects = {
    '/v1/chat/completions': chat.fromJson,
    '/v1/completions': toCompletionOrder,
    '/v1/embeddings': toEmbeddingOrder,
  }
  const body = {
    chat: chatBody(chat, config.bodyBytesMax, deps.beginLargeBody),
    completion: orderBody(toCompletionOrder, config.bodyBytesMax),
    embedding: orderBody(toEmbeddingOrder, config.bodyBytesMax),
    upload: uploadBody(chat.fromPrepared, images, config.bodyBytesMax),
  }
  const prepared = prepare(preparing)
  const answer = complete({ relay, images, previewChars: config.promptPreviewChars })

  app.route('/', publicRoutes({ ...deps, upstream }))

  app.post('/v1/chat/completions', client, body.chat, lift, prepared, limited, answer)
  app.post('/v1/chat/completions/upload', client, body.upload, lift, prepared, limited, answer)
  app.post('/v1/completions', client, body.completion, lift, prepared, limited, answer)
  app.post('/v1/embeddings', client, body.embedding, lift, prepared, limited, answer)

  app.route('/v1', accountRoutes({ ...deps, client, upstream, models }))

  app.use(
    '/admin/*',
    requireAdmin({ adminApiKey: config.adminApiKey, sha256: deps.sha256, isLoopback: deps.isLoopback }),
  )
  app.route('/admin', adminRoutes({ ...deps, principals, models, relay }))

  answerOtherMethods(app)

  const answerError = (thrown: unknown, c: Context<AppEnv>): Response => {
    const error = toApiError(thrown, deps.isStorageFull)
    // Nobody reads this one.
    if (error.kind === 'client_left') return c.json(error.body, error.status as 400)
    tally.count(error.status, error.body.error.code ?? error.body.error.type)
    if (error.status >= 500) {
      log.error(
        {
          requestId: toRequestId(c.get('id')),
          status: error.status,
          code: error.body.error.code,
          cause: error.cause,
        },
        error.message,
      )
    }
    for (const [name, value] of Object.entries(error.headers)) c.header(name, value)
    return c.json(error.body, error.status as 400)
  }

  const plainly = (request: Request, bindings: AppEnv['Bindings']) => app.fetch(request, bindings)
  const refuseEarly = createEarlyRefusal(
    {
      ...deps,
      principals,
      refusedLately,
      paths: Object.keys(dialects),
      foresee: createForesight(preparing, dialects),
      tally,
      isDraining: () => draining,
      corsOrigins: config.corsOrigins,
    },
    plainly,
  )

  return {
    fetch: (request: Request): Response | Promise<Response> => refuseEarly(request) ?? plainly(request, {}),
    upstream,
    /** Prices are read once; call before the first request. */
    ready: () => models.loadPrices(),
    get inFlight() {
      return relay.inFlight
    },
    /** No new requests from now on. */
    drain() {
      draining = true
    },
    /** Ends what is still running: streams get an error chunk, rows are closed. */
    async stop() {
      await relay.stop(new ApiError('shutting_down', 'The server is shutting down.'), 'failed')
    },
  }
}

const toApiError = (error: unknown, isStorageFull: (error: unknown) => boolean): ApiError => {
  if (error instanceof ApiError) return error
  if (error instanceof HTTPException) {
    return new ApiError('invalid_request', 'The request could not be understood.', { cause: error })
  }
  const deep = tooDeep(error)
  if (deep !== undefined) return deep
  if (isStorageFull(error)) {
    return new ApiError('storage_full', 'The server has no room left to write. Please try again later.', {
      cause: error,
      headers: { 'retry-after': '5' },
    })
  }
  return new ApiError(
    'internal',
    'The server failed to answer this request. Its cause is in the log under the request id.',
    { cause: error },
  )
}

const logOutcome = (
  log: Log,
  { id, userId, keyId, model, kind, outcome, cost, durationMs, error }: FlightOutcome,
) => {
  const fields = {
    requestId: toRequestId(id),
    user: userId,
    key: keyId,
    model,
    kind,
    outcome: outcome ?? 'not sent',
    promptTokens: cost.promptTokens,
    completionTokens: cost.completionTokens,
    basis: cost.basis,
    durationMs,
  }
  if (error !== undefined && error.status >= 500)
    log.warn({ ...fields, code: error.body.error.code, cause: error.cause }, 'request')
  else log.info(fields, 'request')
}
