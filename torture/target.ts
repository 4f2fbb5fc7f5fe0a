/** The checks that need only the wire, against any OpenAI-compatible server: no kills, nothing of its inside. */
import { perform, type Seen } from './client.ts'
import { createDice, createPlan } from './plan.ts'
import { createScorecard, type Scorecard } from './scorecard.ts'
import { field, list } from './sse.ts'

export type TargetOptions = {
  /** With or without `/v1`. */
  url: string
  key: string
  /** Default: the first of `/v1/models`. */
  model: string | undefined
  seconds: number
  clients: number
  seed: number
}

/** A server may be slow; one that is silent must not hold the checks up. */
const PATIENCE_MS = 20_000

const firstModel = async (url: string, key: string): Promise<string> => {
  const answer = await fetch(`${url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })
  const id = field(list(field(await answer.json(), 'data'))[0], 'id')
  if (typeof id === 'string') return id
  throw new Error(`${url}/v1/models lists no model: name one with --model`)
}

const describe = ({ attempt, end, status, code }: Seen) =>
  `${attempt.tag} (${attempt.dialect}${attempt.stream ? ' stream' : ''} n=${attempt.choices}): ${end} ${status ?? ''} ${code ?? ''}`

export const runTarget = async (options: TargetOptions): Promise<Scorecard> => {
  const { key, seconds, clients, seed } = options
  const url = options.url.replace(/\/(v1\/?)?$/, '')
  const model = options.model ?? (await firstModel(url, key))
  const scorecard = createScorecard()
  const until = performance.now() + seconds * 1000
  const ids = new Set<string>()
  const deps = { baseUrl: () => url, now: Date.now, reached: () => {}, patienceMs: PATIENCE_MS }

  const judge = (seen: Seen) => {
    const note = (title: string, holds: boolean) =>
      scorecard.check(title).note(holds ? undefined : describe(seen))
    scorecard
      .check('answers are well formed')
      .note(seen.faults.length === 0 ? undefined : `${describe(seen)}; ${seen.faults.join('; ')}`)
    note('the server answers', seen.end !== 'unreachable')
    note('streams end with [DONE] or say that they failed', seen.end !== 'cut')
    if (seen.end === 'refused') note('errors have a status from 400 on', (seen.status ?? 0) >= 400)
    if (seen.usage !== undefined && seen.end === 'whole') {
      note('usage counts the prompt', seen.usage.prompt > 0)
      note('what was delivered is not counted as nothing', seen.tokens === 0 || seen.usage.completion > 0)
    }
    for (const id of seen.ids) {
      note('ids are never used twice', !ids.has(id))
      ids.add(id)
    }
  }

  const live = async (client: number) => {
    const plan = createPlan(seed, client, { userId: 'target', apiKey: key })
    const chance = createDice(seed + client)
    while (performance.now() < until) {
      const { dialect, ...rest } = plan()
      const seen = await perform(
        { ...rest, dialect: dialect === 'embedding' ? 'chat' : dialect, model, withTool: false },
        deps,
      )
      judge(seen)
      if (seen.end !== 'whole') await Bun.sleep(chance.whole(20, seen.status === 429 ? 1000 : 60))
    }
  }
  await Promise.all(Array.from({ length: clients }, (_, client) => live(client)))
  return scorecard
}
