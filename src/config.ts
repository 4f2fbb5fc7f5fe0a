/** The settings: one table, read once at the start. README's table and this one are held to the same names by a test. */
import { z } from 'zod'
import type { Limits } from './limits/admission.ts'

/** The published default; honoured only from loopback (http/admin-auth.ts). */
export const DEFAULT_ADMIN_KEY = 'admin-secret-key'

const whole = (least: number, most = Number.MAX_SAFE_INTEGER) =>
  z
    .string()
    .regex(/^\d+$/)
    .transform(Number)
    .refine(value => value >= least && value <= most)

const unlimitedOr = <Schema extends z.ZodType>(schema: Schema) =>
  z.union([z.literal('unlimited').transform(() => null), schema])

const wordList = z.string().transform(text =>
  text
    .split(',')
    .map(word => word.trim())
    .filter(word => word !== ''),
)

const upstreamUrl = z.string().transform((text, context) => {
  const url = URL.canParse(text) ? new URL(text) : undefined
  const plain = url?.username === '' && url.password === '' && url.search === '' && url.hash === ''
  if (url === undefined || !plain || !/^https?:$/.test(url.protocol)) {
    context.addIssue({ code: 'custom' })
    return z.NEVER
  }
  return url.href.replace(/\/+$/, '')
})

const origins = wordList.refine(list =>
  list.every(origin => origin === '*' || (URL.canParse(origin) && new URL(origin).origin === origin)),
)

const limit = { schema: unlimitedOr(whole(0)), accepts: 'a whole number of 0 or more, or "unlimited"' }
const seconds = { schema: whole(1, 86_400), accepts: 'whole seconds, 1 to 86400' }
const flag = {
  schema: z.enum(['true', 'false']).transform(word => word === 'true'),
  accepts: '"true" or "false"',
}
const choice = <const Words extends readonly [string, ...string[]]>(...words: Words) => ({
  schema: z.enum(words),
  accepts: words.map(word => `"${word}"`).join(', '),
})

const settings = {
  OLLAMA_BASE_URL: {
    fallback: 'http://localhost:11434',
    schema: upstreamUrl,
    accepts: 'an http:// or https:// URL without credentials, query or fragment',
  },
  ADMIN_API_KEY: {
    fallback: DEFAULT_ADMIN_KEY,
    schema: z.string().regex(/^[\x21-\x7e]{8,}$/),
    accepts: 'at least 8 printable characters without spaces',
    secret: true,
  },
  HOST: {
    fallback: '0.0.0.0',
    schema: z.string().regex(/^[A-Za-z0-9.:_-]+$/),
    accepts: 'a host name or an address',
  },
  PORT: {
    fallback: '8000',
    schema: whole(0, 65_535),
    accepts: 'a whole number from 0 (any free port) to 65535',
  },
  DATABASE_PATH: { fallback: './proxy.db', schema: z.string(), accepts: 'a file path, or ":memory:"' },
  DEFAULT_REQUESTS_PER_MINUTE: { fallback: '60', ...limit },
  DEFAULT_REQUESTS_PER_DAY: { fallback: '1000', ...limit },
  DEFAULT_TOKENS_PER_MINUTE: { fallback: '100000', ...limit },
  DEFAULT_TOKENS_PER_DAY: { fallback: '1000000', ...limit },
  DEFAULT_TOTAL_TOKEN_LIMIT: { fallback: 'unlimited', ...limit },
  MAX_UPLOAD_SIZE_MB: { fallback: '10', schema: whole(1, 1024), accepts: 'whole megabytes, 1 to 1024' },
  ALLOWED_IMAGE_TYPES: {
    fallback: 'image/jpeg,image/png,image/gif,image/webp',
    schema: wordList.refine(
      list => list.length > 0 && list.every(type => /^image\/[a-z0-9.+-]+$/.test(type)),
    ),
    accepts: 'a comma-separated list of image types, such as image/png,image/jpeg',
  },
  MAX_BODY_MB: { fallback: '32', schema: whole(1, 1024), accepts: 'whole megabytes, 1 to 1024' },
  IMAGE_URL_FETCH: { fallback: 'public', ...choice('off', 'public', 'all') },
  UPSTREAM_FIRST_BYTE_TIMEOUT_S: { fallback: '600', ...seconds },
  UPSTREAM_IDLE_TIMEOUT_S: { fallback: '120', ...seconds },
  OLLAMA_MAX_CONCURRENT: {
    fallback: 'unlimited',
    schema: unlimitedOr(whole(1)),
    accepts: 'a whole number of 1 or more, or "unlimited"',
  },
  MAX_QUEUE: { fallback: '1000', schema: whole(0, 1_000_000), accepts: 'a whole number from 0 to 1000000' },
  CLIENT_STALL_TIMEOUT_S: { fallback: '120', ...seconds },
  TRUNCATION: { fallback: 'allow', ...choice('allow', 'refuse') },
  ALLOW_CLOUD_MODELS: { fallback: 'false', ...flag },
  USAGE_RETENTION_DAYS: {
    fallback: 'unlimited',
    schema: unlimitedOr(whole(2, 36_500)),
    accepts: 'whole days, at least 2, or "unlimited"',
  },
  SQLITE_SYNCHRONOUS: { fallback: 'normal', ...choice('normal', 'full') },
  SHUTDOWN_TIMEOUT_S: { fallback: '30', schema: whole(0, 86_400), accepts: 'whole seconds, 0 to 86400' },
  PROMPT_PREVIEW_CHARS: {
    fallback: '0',
    schema: whole(0, 10_000),
    accepts: 'a whole number from 0 to 10000',
  },
  CURRENCY: {
    fallback: 'USD',
    schema: z.string().regex(/^[\w $€£¥.-]{1,16}$/u),
    accepts: 'a label of 1 to 16 characters',
  },
  CORS_ORIGINS: {
    fallback: '',
    schema: origins,
    accepts: 'a comma-separated list of origins such as https://chat.example.com, or *',
  },
  LOG_LEVEL: { fallback: 'info', ...choice('trace', 'debug', 'info', 'warn', 'error', 'silent') },
  LOG_FORMAT: { fallback: 'auto', ...choice('auto', 'pretty', 'json') },
} as const satisfies Record<string, { fallback: string; schema: z.ZodType; accepts: string; secret?: true }>

export type SettingName = keyof typeof settings
export const settingNames = Object.keys(settings) as SettingName[]
/** What a setting is when the environment says nothing, as it would be written there. */
export const settingDefault = (name: SettingName): string => settings[name].fallback

type Parsed = { [Name in SettingName]: z.output<(typeof settings)[Name]['schema']> }

/** The settings in the core's own words: limits as numbers or null, sizes in bytes, times in milliseconds. */
export type Config = {
  ollamaBaseUrl: string
  adminApiKey: string
  host: string
  port: number
  databasePath: string
  defaultLimits: Limits
  imageBytesMax: number
  imageTypes: readonly string[]
  bodyBytesMax: number
  imageUrlFetch: Parsed['IMAGE_URL_FETCH']
  firstByteTimeoutMs: number
  upstreamIdleTimeoutMs: number
  /** Infinity when unlimited. */
  upstreamConcurrency: number
  queueMax: number
  clientStallTimeoutMs: number
  refuseTruncation: boolean
  allowCloudModels: boolean
  retentionDays: number | null
  sqliteSynchronous: Parsed['SQLITE_SYNCHRONOUS']
  shutdownTimeoutMs: number
  promptPreviewChars: number
  currency: string
  corsOrigins: readonly string[]
  logLevel: Parsed['LOG_LEVEL']
  logFormat: Parsed['LOG_FORMAT']
}

/** Every wrong setting in one message, secrets masked; thrown before anything listens. */
export class ConfigError extends Error {
  constructor(faults: readonly string[]) {
    super(
      faults.length === 1
        ? `Wrong setting: ${faults[0]}`
        : `Wrong settings:\n${faults.map(fault => `  ${fault}`).join('\n')}`,
    )
    this.name = 'ConfigError'
  }
}

const shown = (value: string, secret: boolean) =>
  secret
    ? `(${value.length} characters, not shown)`
    : JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value)

/**
 * The configuration an environment describes. Absent and empty values take the default, except an empty
 * ADMIN_API_KEY, which is a fault: whoever sets it to nothing must not get the published default.
 * @throws ConfigError naming every fault at once.
 */
export const parseConfig = (env: Readonly<Record<string, string | undefined>>): Config => {
  const faults: string[] = []
  const read = <Name extends SettingName>(name: Name): Parsed[Name] => {
    const setting: { fallback: string; schema: z.ZodType; accepts: string; secret?: true } = settings[name]
    const given = env[name]?.trim()
    const secret = setting.secret === true
    const value = given === undefined || (given === '' && !secret) ? setting.fallback : given
    const parsed = setting.schema.safeParse(value)
    if (!parsed.success)
      faults.push(`${name}=${shown(value, secret)} is not accepted; it takes ${setting.accepts}.`)
    return parsed.data as Parsed[Name]
  }
  const megabytes = (count: number) => count * 1024 * 1024
  const config: Config = {
    ollamaBaseUrl: read('OLLAMA_BASE_URL'),
    adminApiKey: read('ADMIN_API_KEY'),
    host: read('HOST'),
    port: read('PORT'),
    databasePath: read('DATABASE_PATH'),
    defaultLimits: {
      requestsPerMinute: read('DEFAULT_REQUESTS_PER_MINUTE'),
      requestsPerDay: read('DEFAULT_REQUESTS_PER_DAY'),
      tokensPerMinute: read('DEFAULT_TOKENS_PER_MINUTE'),
      tokensPerDay: read('DEFAULT_TOKENS_PER_DAY'),
      totalTokens: read('DEFAULT_TOTAL_TOKEN_LIMIT'),
    },
    imageBytesMax: megabytes(read('MAX_UPLOAD_SIZE_MB')),
    imageTypes: read('ALLOWED_IMAGE_TYPES'),
    bodyBytesMax: megabytes(read('MAX_BODY_MB')),
    imageUrlFetch: read('IMAGE_URL_FETCH'),
    firstByteTimeoutMs: read('UPSTREAM_FIRST_BYTE_TIMEOUT_S') * 1000,
    upstreamIdleTimeoutMs: read('UPSTREAM_IDLE_TIMEOUT_S') * 1000,
    upstreamConcurrency: read('OLLAMA_MAX_CONCURRENT') ?? Number.POSITIVE_INFINITY,
    queueMax: read('MAX_QUEUE'),
    clientStallTimeoutMs: read('CLIENT_STALL_TIMEOUT_S') * 1000,
    refuseTruncation: read('TRUNCATION') === 'refuse',
    allowCloudModels: read('ALLOW_CLOUD_MODELS'),
    retentionDays: read('USAGE_RETENTION_DAYS'),
    sqliteSynchronous: read('SQLITE_SYNCHRONOUS'),
    shutdownTimeoutMs: read('SHUTDOWN_TIMEOUT_S') * 1000,
    promptPreviewChars: read('PROMPT_PREVIEW_CHARS'),
    currency: read('CURRENCY'),
    corsOrigins: read('CORS_ORIGINS'),
    logLevel: read('LOG_LEVEL'),
    logFormat: read('LOG_FORMAT'),
  }
  if (faults.length > 0) throw new ConfigError(faults)
  return config
}
