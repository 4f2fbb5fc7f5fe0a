/**
 * What a canned model says when no script tells it: text made from its prompt alone, so that the same request gets the
 * same answer in every run.
 *
 * - `talker`: 24 to 63 words, one token each.
 * - `thinker`: thinks 6 to 15 words first, unless `think` is false.
 * - `tooler`: calls the first tool offered, with arguments of the right types; after a tool's answer, or without tools, it talks.
 * - `lumpy`: as `talker`, with one, two or three tokens on a line, so that lines are not tokens.
 *
 * `[[tokens:50]]` in the prompt asks for an answer of 50 tokens (the end token not counted); `[[tag:x]]` marks the log.
 * With `format` the answer is JSON that fits it.
 */
import type { Behaviour } from './catalogue.ts'
import type { Exchange } from './exchange.ts'
import { isList, isObject, type Json } from './json.ts'
import type { Piece, Speaker } from './speaker.ts'
import type { Wheel } from './wheel.ts'

export type Uttered = { piece: Piece; tokens: number }

const words =
  ' the| river| carries| small| boats| past| quiet| houses|,| where| someone| reads| "aloud"| by| a| window|.|\n| Café| tables| fill| slowly| –| 日本| tea| cools| <b>| and| nobody| counts| the| hours'.split(
    '|',
  )

/** FNV-1a over UTF-16 units: stable, and cheap enough for a prompt of megabytes. */
export const hash = (text: string) => {
  let value = 0x811c9dc5
  for (let index = 0; index < text.length; index++)
    value = Math.imul(value ^ text.charCodeAt(index), 0x01000193)
  return value >>> 0
}

/** Mulberry32: a seeded source of numbers in [0, 1). */
export const createChance = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let value = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value
  return ((value ^ (value >>> 14)) >>> 0) / 4_294_967_296
}

/** The text of the request that the answer depends on: the last message, or the prompt. */
const promptText = (body: Json): string => {
  const messages = body['messages']
  const last = isList(messages) ? messages.at(-1) : undefined
  const text = isObject(last) ? last['content'] : body['prompt']
  return typeof text === 'string' ? text : ''
}

const everyText = (body: Json): string => {
  if (!isList(body['messages'])) return promptText(body)
  return body['messages']
    .map(message => (isObject(message) ? String(message['content'] ?? '') : ''))
    .join('\n')
}

/** The tag a request carries in its prompt, to be found again in the log. */
export const findTag = (body: Json): string | null =>
  /\[\[tag:([^\]]{1,200})\]\]/.exec(everyText(body))?.[1] ?? null

const speak = (chance: () => number, count: number): Uttered[] =>
  Array.from({ length: count }, () => ({
    piece: { content: words[Math.floor(chance() * words.length)] ?? '' },
    tokens: 1,
  }))

/** A value that fits a JSON schema, as far as types, properties, items and enums say. */
const fitting = (schema: unknown, chance: () => number): unknown => {
  if (!isObject(schema)) return 'yes'
  if (isList(schema['enum'])) return schema['enum'][Math.floor(chance() * schema['enum'].length)]
  const type = isList(schema['type']) ? schema['type'][0] : schema['type']
  if (type === 'number') return Math.round(chance() * 1000) / 10
  if (type === 'integer') return Math.floor(chance() * 100)
  if (type === 'boolean') return chance() < 0.5
  if (type === 'null') return null
  if (type === 'array') return [fitting(schema['items'], chance)]
  if (type !== 'object' && !isObject(schema['properties']))
    return (words[Math.floor(chance() * words.length)] ?? '').trim()
  const properties = isObject(schema['properties']) ? schema['properties'] : {}
  return Object.fromEntries(Object.entries(properties).map(([name, value]) => [name, fitting(value, chance)]))
}

const inJson = (format: unknown, chance: () => number): Uttered[] => {
  const value = isObject(format) ? fitting(format, chance) : { answer: fitting({ type: 'string' }, chance) }
  return (JSON.stringify(value).match(/.{1,4}/gsu) ?? []).map(content => ({ piece: { content }, tokens: 1 }))
}

const firstTool = (body: Json, chance: () => number): Uttered[] => {
  const tool = isList(body['tools']) ? body['tools'][0] : undefined
  const definition = isObject(tool) && isObject(tool['function']) ? tool['function'] : {}
  const given = fitting(
    { type: 'object', ...(isObject(definition['parameters']) ? definition['parameters'] : {}) },
    chance,
  )
  const id = `call_${Array.from({ length: 8 }, () => Math.floor(chance() * 36).toString(36)).join('')}`
  const call = { index: 0, name: String(definition['name'] ?? ''), arguments: isObject(given) ? given : {} }
  return [{ piece: { toolCall: { id, function: call } }, tokens: 8 }]
}

/** The whole answer of a canned model to a request. */
export const compose = (behaviour: Behaviour, body: Json): Uttered[] => {
  const text = promptText(body)
  const chance = createChance(hash(text))
  const asked = /\[\[tokens:(\d{1,6})\]\]/.exec(text)?.[1]
  const count = asked === undefined ? 24 + Math.floor(chance() * 40) : Number(asked)
  const messages = body['messages']
  const last = isList(messages) ? messages.at(-1) : undefined
  const answersTool = isObject(last) && last['role'] === 'tool'
  const offered = isList(body['tools']) && body['tools'].length > 0

  if (behaviour === 'tooler' && offered && !answersTool) return firstTool(body, chance)
  const format = body['format']
  if (format !== undefined && format !== null && format !== '') return inJson(format, chance)
  if (behaviour === 'lumpy') {
    const lumps: Uttered[] = []
    for (let left = count; left > 0; ) {
      const size = Math.min(left, 1 + Math.floor(chance() * 3))
      const content = speak(chance, size)
        .map(({ piece }) => piece.content ?? '')
        .join('')
      lumps.push({ piece: { content }, tokens: size })
      left -= size
    }
    return lumps
  }
  if (behaviour !== 'thinker' || body['think'] === false) return speak(chance, count)
  const thoughts = Math.min(count, 6 + Math.floor(chance() * 10))
  return speak(chance, count).map(({ piece, tokens }, index) => ({
    piece: index < thoughts ? { thinking: piece.content ?? '' } : piece,
    tokens,
  }))
}

export const faultKinds = [
  'reset',
  'truncate',
  'garbage',
  'end',
  'error',
  '500',
  '503',
  'stall',
  'slow',
] as const
export type FaultKind = (typeof faultKinds)[number]
/** `at`: before which piece (0 is before the header); `500` and `503` are always at 0. */
export type Fault = { kind: FaultKind; at: number }

/** How long a `slow` answer falls silent, once. */
export const slowMs = 1500
const queuedMax = 262_144

const breakWith = (speaker: Speaker, kind: Exclude<FaultKind, 'slow'>) => {
  if (kind === '500') speaker.status(500, { error: 'llama runner process has terminated: exit status 2' })
  else if (kind === '503')
    speaker.status(503, { error: 'server busy, please try again.  maximum pending requests exceeded' })
  else if (kind === 'error') speaker.error('an error was encountered while running the model: CUDA error')
  else speaker[kind]()
}

/** Says an answer at its pace, no faster than the client takes it. */
export const perform = (
  uttered: readonly Uttered[],
  speaker: Speaker,
  exchange: Exchange,
  { wheel, msPerToken, fault }: { wheel: Wheel; msPerToken: number; fault?: Fault | undefined },
) => {
  let index = 0
  let dueMs = wheel.now()
  let faulted = false
  const later = () => {
    dueMs = Math.max(dueMs + msPerToken, wheel.now())
    wheel.addAt(dueMs, step)
  }
  const step = (): void => {
    while (!speaker.ended() && !exchange.over) {
      const next = uttered[index]
      if (fault !== undefined && index >= fault.at && !faulted) {
        faulted = true
        if (fault.kind === 'slow') {
          wheel.after(slowMs, step)
          return
        }
        breakWith(speaker, fault.kind)
      } else if (next === undefined) speaker.done()
      else {
        index++
        speaker.say(next.piece, next.tokens)
        if (exchange.queued > queuedMax) {
          exchange.drained(step)
          return
        }
        if (msPerToken > 0) {
          later()
          return
        }
      }
    }
  }
  if (msPerToken > 0) later()
  else step()
}
