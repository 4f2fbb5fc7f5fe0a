/** What must hold at any moment while requests run and the proxy is killed: totals never shrink, usage is there at once. */
import type { Admin } from './accounts.ts'
import type { Seen } from './client.ts'
import type { Scorecard } from './scorecard.ts'
import { field, list } from './sse.ts'

const EVERY_MS = 150

/** Takes the same reports again and again; a total that shrinks is a hole, also across kills. */
export const watchTotals = async (admin: Admin, scorecard: Scorecard, more: () => boolean) => {
  const check = scorecard.check('totals never shrink while requests run')
  const last = new Map<string, number>()
  const hold = (name: string, value: unknown) => {
    const before = last.get(name) ?? 0
    const now = typeof value === 'number' ? value : Number.NaN
    check.note(now >= before ? undefined : `${name} fell from ${before} to ${now}`)
    last.set(name, Math.max(before, now || 0))
  }
  while (more()) {
    const buckets = await admin('/admin/usage?bucket_width=1d&group_by=model')
    const sums = new Map<string, number>()
    for (const bucket of list(field(buckets.body, 'data')))
      for (const result of list(field(bucket, 'results'))) {
        const model = String(field(result, 'model'))
        sums.set(model, (sums.get(model) ?? 0) + Number(field(result, 'total_tokens')))
      }
    for (const [model, tokens] of sums) hold(model, tokens)
    const users = await admin('/admin/users?limit=100')
    for (const user of list(field(users.body, 'data'))) {
      const usage = field(user, 'usage')
      hold(`tokens of ${field(user, 'user_id')}`, field(usage, 'total_tokens'))
      hold(`cost of ${field(user, 'user_id')}`, field(usage, 'total_cost'))
    }
    await Bun.sleep(EVERY_MS)
  }
}

/** Right after its end, an answer's row stands in the history; says nothing when the proxy was killed meanwhile. */
export const checkVisible = async (url: string, seen: Seen, scorecard: Scorecard) => {
  const answer = await fetch(`${url}/v1/usage/history?limit=100`, {
    headers: { authorization: `Bearer ${seen.attempt.apiKey}` },
    keepalive: false,
  })
    .then(response => (response.status === 200 ? response.json() : undefined))
    .catch(() => undefined)
  if (answer === undefined) return
  const row = list(field(answer, 'data')).find(one => field(one, 'request_id') === seen.requestId)
  const same =
    field(row, 'outcome') === 'completed' &&
    (seen.usage === undefined ||
      (field(row, 'prompt_tokens') === seen.usage.prompt &&
        field(row, 'completion_tokens') === seen.usage.completion))
  scorecard
    .check('the usage of an answer read to its end can be read at once')
    .note(
      same ? undefined : `${seen.attempt.tag}: ${JSON.stringify(row)}, told ${JSON.stringify(seen.usage)}`,
    )
}
