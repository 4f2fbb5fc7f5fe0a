/** Users, keys and prices of a run, made over the admin API. */
import { embedderOf } from './plan.ts'
import { field } from './sse.ts'

export type Admin = (
  path: string,
  init?: { method?: string; json?: unknown },
) => Promise<{ status: number; body: unknown }>

const RETRY_EVERY_MS = 25

/** Calls with the admin key; while the proxy is being restarted it tries again. */
export const createAdmin =
  (url: string, adminKey: string): Admin =>
  async (path, { method, json } = {}) => {
    for (;;) {
      try {
        const answer = await fetch(url + path, {
          method: method ?? (json === undefined ? 'GET' : 'POST'),
          headers: { authorization: `Bearer ${adminKey}`, 'content-type': 'application/json' },
          ...(json === undefined ? {} : { body: JSON.stringify(json) }),
          keepalive: false,
        })
        const text = await answer.text()
        return { status: answer.status, body: JSON.parse(text) }
      } catch {
        await Bun.sleep(RETRY_EVERY_MS)
      }
    }
  }

type Limit = 'requests_per_minute' | 'tokens_per_minute' | 'total_token_limit'

export type Account = { userId: string; keys: string[]; limit: { name: Limit; size: number } | undefined }

const unlimited = {
  requests_per_minute: null,
  requests_per_day: null,
  tokens_per_minute: null,
  tokens_per_day: null,
  total_token_limit: null,
}

const wanted: { userId: string; limit?: { name: Limit; size: number } }[] = [
  { userId: 'free-0' },
  { userId: 'free-1' },
  { userId: 'free-2' },
  { userId: 'free-3' },
  { userId: 'free-4' },
  { userId: 'few-requests', limit: { name: 'requests_per_minute', size: 25 } },
  { userId: 'few-tokens', limit: { name: 'tokens_per_minute', size: 4000 } },
  { userId: 'capped', limit: { name: 'total_token_limit', size: 3000 } },
]

/** Every user with two keys; the last three have one tight limit each. */
export const createAccounts = (admin: Admin): Promise<Account[]> =>
  Promise.all(
    wanted.map(async ({ userId, limit }) => {
      const limits = limit === undefined ? unlimited : { ...unlimited, [limit.name]: limit.size }
      const made = await admin('/admin/users', { json: { user_id: userId, limits } })
      const second = await admin(`/admin/users/${userId}/keys`, { json: { name: 'second' } })
      if (made.status !== 201 || second.status !== 201)
        throw new Error(`No user could be made: ${JSON.stringify([made, second])}`)
      return { userId, keys: [made, second].map(({ body }) => String(field(body, 'api_key'))), limit }
    }),
  )

/** A price in 10^-12 units a token, and when it came: it may hold from `askedMs`, and does from `doneMs` on. */
type Priced = { input: bigint; output: bigint; askedMs: number; doneMs: number }

export type Prices = Map<string, Priced[]>

/** Six decimals at most; in millionths, so that what is sent and what is computed are both exact. */
type Millionths = { input: number; output: number }

const firstPrices: Record<string, Millionths> = {
  burst: { input: 123_457, output: 1_654_321 },
  brisk: { input: 3_000_000, output: 15_000_000 },
  steady: { input: 1_000_000_000_000, output: 999_999_999_999 },
  lumpy: { input: 1, output: 2 },
  tooler: { input: 0, output: 2_500_000 },
  [embedderOf(0).name]: { input: 20_001, output: 0 },
}

export const createPrices = (admin: Admin, now: () => number) => {
  const prices: Prices = new Map()

  const set = async (model: string, { input, output }: Millionths) => {
    const askedMs = now()
    const json = {
      model,
      input_cost_per_million: input / 1_000_000,
      output_cost_per_million: output / 1_000_000,
    }
    const { status, body } = await admin('/admin/pricing', { json })
    if (status !== 201) throw new Error(`No price could be set: ${JSON.stringify(body)}`)
    const priced = { input: BigInt(input), output: BigInt(output), askedMs, doneMs: now() }
    prices.set(model, [...(prices.get(model) ?? []), priced])
  }

  return {
    prices,
    async setAll() {
      for (const [model, price] of Object.entries(firstPrices)) await set(model, price)
    },
    set,
  }
}
