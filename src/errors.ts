/**
 * What an error looks like, and nobody else picks a status.
 *
 * The status is the OpenAI SDK's exception class (400 BadRequest, 401 Authentication, 403 PermissionDenied,
 * 404 NotFound, 409 Conflict, 429 RateLimit, 5xx InternalServer), so each kind has exactly one.
 */
const kinds = {
  invalid_request: [400, 'invalid_request_error', null],
  missing_key: [401, 'invalid_request_error', null],
  invalid_api_key: [401, 'invalid_request_error', 'invalid_api_key'],
  missing_admin_key: [401, 'invalid_request_error', 'missing_admin_key'],
  invalid_admin_key: [403, 'invalid_request_error', 'invalid_admin_key'],
  default_admin_key: [403, 'invalid_request_error', 'default_admin_key'],
  model_not_allowed: [403, 'invalid_request_error', 'model_not_allowed'],
  user_deleted: [403, 'invalid_request_error', 'user_deleted'],
  model_not_found: [404, 'invalid_request_error', 'model_not_found'],
  price_not_found: [404, 'invalid_request_error', 'price_not_found'],
  not_found: [404, 'invalid_request_error', 'not_found'],
  unknown_url: [404, 'invalid_request_error', 'unknown_url'],
  method_not_allowed: [405, 'invalid_request_error', 'method_not_allowed'],
  user_exists: [409, 'invalid_request_error', 'user_exists'],
  request_too_large: [413, 'invalid_request_error', 'request_too_large'],
  unsupported_media_type: [415, 'invalid_request_error', 'unsupported_media_type'],
  headers_too_large: [431, 'invalid_request_error', 'request_too_large'],
  client_left: [499, 'invalid_request_error', 'client_left'],
  request_limit: [429, 'requests', 'rate_limit_exceeded'],
  token_limit: [429, 'tokens', 'rate_limit_exceeded'],
  insufficient_quota: [429, 'insufficient_quota', 'insufficient_quota'],
  internal: [500, 'server_error', 'internal_error'],
  upstream: [502, 'server_error', 'upstream_error'],
  overloaded: [503, 'server_error', 'overloaded'],
  shutting_down: [503, 'server_error', 'shutting_down'],
  storage_full: [503, 'server_error', 'storage_full'],
  upstream_timeout: [504, 'server_error', 'upstream_timeout'],
} as const satisfies Record<string, readonly [status: number, type: string, code: string | null]>

export type ErrorKind = keyof typeof kinds

/** OpenAI's error envelope; every error of every endpoint, and of a stream's error chunk, has this shape. */
export type ErrorBody = {
  error: { message: string; type: string; param: string | null; code: string | null }
}

/** What a client is told of a refusal, before anything is thrown. */
export type Fault = { kind: ErrorKind; message: string; headers: Record<string, string> }

/** What tells errors apart for a person who counts them: the code, or the type where there is none. */
export const codeOf = (kind: ErrorKind): string => kinds[kind][2] ?? kinds[kind][1]

export const statusOf = (kind: ErrorKind): number => kinds[kind][0]

export const toErrorBody = (
  kind: ErrorKind,
  message: string,
  { param, code }: Pick<Details, 'param' | 'code'> = {},
): ErrorBody => {
  const [, type, usualCode] = kinds[kind]
  return { error: { message, type, param: param ?? null, code: code === undefined ? usualCode : code } }
}

const tails = Object.fromEntries(
  Object.entries(kinds).map(([kind, [, type, code]]) => [
    kind,
    JSON.stringify({ type, param: null, code }).slice(1),
  ]),
) as Record<ErrorKind, string>

/** The same as JSON, where nothing but the message varies: a third of the time of stringifying it whole. */
export const toErrorText = (kind: ErrorKind, message: string): string =>
  `{"error":{"message":${JSON.stringify(message)},${tails[kind]}}`

type Details = {
  /** The field at fault, in OpenAI's path style: `messages[0].content[1].image_url`. */
  param?: string | null
  /** Replaces the kind's own code, e.g. `invalid_type` or `context_length_exceeded` for `invalid_request`. */
  code?: string | null
  headers?: Record<string, string>
  /** For the log only; never shown to a client. */
  cause?: unknown
}

/** An answer that is an error. `message` is for the client, `cause` for the log; they never mix. */
export class ApiError extends Error {
  readonly kind: ErrorKind
  readonly status: number
  readonly headers: Record<string, string>
  readonly body: ErrorBody

  constructor(kind: ErrorKind, message: string, details: Details = {}) {
    super(message, 'cause' in details ? { cause: details.cause } : undefined)
    this.name = 'ApiError'
    this.kind = kind
    this.status = statusOf(kind)
    this.headers = details.headers ?? {}
    this.body = toErrorBody(kind, message, details)
  }
}

/** What recursion over a client's JSON runs into, as a 400; undefined for any other error. */
export const tooDeep = (error: unknown): ApiError | undefined =>
  error instanceof RangeError && /call stack/i.test(error.message)
    ? new ApiError('invalid_request', 'The request is nested too deeply.', { cause: error })
    : undefined

/** A 400 that names the field. `code` as in openai-api.md §1.4: `invalid_type`, `invalid_value`, … or null. */
export const invalid = (param: string | null, message: string, code: string | null = 'invalid_value') =>
  new ApiError('invalid_request', message, { param, code })
