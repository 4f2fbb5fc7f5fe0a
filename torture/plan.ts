/**
 * What the clients will do, drawn from a seed: who asks for what, in which dialect, and where it leaves.
 * Each client draws from a source of its own, so its plan doesn't depend on how fast the others are.
 */
import { createChance } from '../src/simulator/behaviour.ts'
import type { ModelSpec } from '../src/simulator/catalogue.ts'

export type Chance = {
  /** In [0, 1). */
  next: () => number
  /** A whole number from `from` to `to`, both included. */
  whole: (from: number, to: number) => number
  pick: <T>(list: readonly T[]) => T
  /** True with this probability. */
  hit: (probability: number) => boolean
}

export const createDice = (seed: number): Chance => {
  const next = createChance(seed)
  const whole = (from: number, to: number) => from + Math.floor(next() * (to - from + 1))
  return {
    next,
    whole,
    pick: list => list[Math.floor(next() * list.length)] as (typeof list)[number],
    hit: probability => next() < probability,
  }
}

type Dialect = 'chat' | 'completion' | 'embedding'

/** Where a client leaves; `tokens` are counted over all choices, `finish` is the chunk that carries finish_reason. */
type Leave =
  | { at: 'never' }
  | { at: 'time'; afterMs: number }
  | { at: 'tokens'; count: number }
  | { at: 'finish' }

/** One request. A retry is an attempt of its own, with a tag of its own. */
export type Attempt = {
  /** Stands in the prompt as `[[tag:…]]`, so that the log's entry and the row's preview can be told apart for good. */
  tag: string
  userId: string
  apiKey: string
  dialect: Dialect
  model: string
  stream: boolean
  choices: number
  prompt: string
  /** `stream_options.include_usage`; undefined leaves it away. */
  includeUsage: boolean | undefined
  maxTokens: number | undefined
  withTool: boolean
  leave: Leave
  /** Pause after each read. */
  slowMs: number
  requestId: string | undefined
}

/** Models by how they talk: fast, at reading pace, lines of several tokens, thinking first, calling tools. */
export const models: readonly ModelSpec[] = [
  { name: 'burst', behaviour: 'talker', msPerToken: 0 },
  { name: 'brisk', behaviour: 'talker', msPerToken: 2 },
  { name: 'steady', behaviour: 'talker', msPerToken: 15 },
  { name: 'lumpy', behaviour: 'lumpy', msPerToken: 4 },
  { name: 'thinker', behaviour: 'thinker', msPerToken: 3 },
  { name: 'tooler', behaviour: 'tooler', msPerToken: 5 },
]

/** One embedder a client: embeddings carry no tag, so a client's own requests, one after another, tell them apart. */
export const embedderOf = (client: number): ModelSpec => ({ name: `embed-${client}`, behaviour: 'embedder' })

const words = 'a river carries small boats past quiet houses where someone reads aloud by the window'.split(
  ' ',
)

const usual = ['', 'same-id', 'req_0000000000000000000z', '  odd id  ', 'x'.repeat(128)] as const

const drawLeave = (chance: Chance, tokens: number): Leave => {
  const way = chance.next()
  if (way < 0.6) return { at: 'never' }
  if (way < 0.7) return { at: 'time', afterMs: chance.whole(0, 40) }
  if (way < 0.88) return { at: 'tokens', count: chance.whole(1, tokens) }
  if (way < 0.94) return { at: 'tokens', count: tokens }
  return { at: 'finish' }
}

export type ClientOfUser = { userId: string; apiKey: string }

/** The endless plan of one client. `seed` and `client` alone decide it. */
export const createPlan = (seed: number, client: number, who: ClientOfUser): (() => Attempt) => {
  const chance = createDice(seed * 7919 + client * 104_729)
  let count = 0
  return () => {
    count++
    const tag = `c${client}a${count}`
    const dialect: Dialect = chance.hit(0.12) ? 'embedding' : chance.hit(0.2) ? 'completion' : 'chat'
    const tokens = chance.hit(0.08) ? chance.whole(300, 900) : chance.whole(2, 90)
    const filler = Array.from({ length: chance.whole(3, 60) }, () => chance.pick(words)).join(' ')
    const spec = chance.pick(models)
    const stream = dialect !== 'embedding' && chance.hit(0.7)
    const asksUsage = chance.next()
    const withTool = dialect === 'chat' && spec.name === 'tooler'
    return {
      tag,
      ...who,
      dialect,
      model: dialect === 'embedding' ? embedderOf(client).name : spec.name,
      stream,
      choices: dialect !== 'embedding' && !withTool && chance.hit(0.12) ? chance.whole(2, 3) : 1,
      prompt: `[[tag:${tag}]] [[tokens:${tokens}]] ${filler}`,
      includeUsage: !stream || asksUsage < 0.4 ? undefined : asksUsage < 0.7,
      maxTokens: chance.hit(0.2) ? chance.whole(1, tokens + 10) : undefined,
      withTool,
      leave: drawLeave(chance, tokens),
      slowMs: chance.hit(0.1) ? chance.whole(5, 60) : 0,
      requestId: chance.hit(0.4) ? chance.pick(usual) : undefined,
    }
  }
}
