/** The thread of large-bodies.ts: joins a body's chunks, translates it, keeps its messages as JSON until dropped. */
import { parentPort } from 'node:worker_threads'
import { ApiError, tooDeep } from '../errors.ts'
import { joined, parseJson } from '../http/body.ts'
import type { ChatOutline } from '../http/large-body.ts'
import { measurePrompt } from '../limits/estimate.ts'
import { readChat } from '../wire/read-chat.ts'
import { giveWay } from './give-way.ts'
import type { Reply, Wish } from './large-bodies.ts'

/** So much at a time is joined and encoded for the event loop; each costs it well under a millisecond. */
const SLICE_BYTES = 256 * 1024
/** The longest preview, 10,000 characters of two units each. */
const LAST_PROMPT_LENGTH = 20_000

const received = new Map<number, Uint8Array[]>()
const translated = new Map<number, Uint8Array>()
const encoder = new TextEncoder()

const translate = (bytes: Uint8Array): { outline: ChatOutline; messages: Uint8Array } | undefined => {
  const prepared = readChat(parseJson(bytes))
  if (prepared.images.length > 0) return undefined
  const { request } = prepared
  const lastPrompt = request.messages.findLast(message => message.role === 'user')?.content ?? ''
  return {
    outline: {
      prepared: { ...prepared, request: { ...request, messages: [] } },
      features: measurePrompt(request),
      lastPrompt: lastPrompt.slice(0, LAST_PROMPT_LENGTH),
    },
    messages: encoder.encode(JSON.stringify(request.messages)),
  }
}

type Answered = Reply extends infer One ? (One extends { seq: number } ? Omit<One, 'seq'> : never) : never

const reply = (seq: number, answer: Answered, give: ArrayBuffer[] = []) =>
  parentPort?.postMessage({ seq, ...answer } as Reply, give)

const end = (seq: number, id: number) => {
  const bytes = joined(received.get(id) ?? [])
  received.delete(id)
  try {
    const done = translate(bytes)
    if (done === undefined) return reply(seq, { bytes }, [bytes.buffer])
    translated.set(id, done.messages)
    reply(seq, { outline: done.outline })
  } catch (error) {
    const fault = error instanceof ApiError ? error : tooDeep(error)
    if (fault !== undefined) {
      const { kind, message, headers, body } = fault
      const { param, code } = body.error
      reply(seq, { fault: { kind, message, details: { param, code, headers } } })
    } else reply(seq, { error: error instanceof Error ? (error.stack ?? error.message) : String(error) })
  }
}

const slice = (seq: number, id: number, offset: number) => {
  const messages = translated.get(id)
  if (messages === undefined) return reply(seq, { error: 'the body was dropped' })
  const part = messages.slice(offset, offset + SLICE_BYTES)
  const next = offset + part.length
  reply(seq, { slice: part, next: next < messages.length ? next : null }, [part.buffer as ArrayBuffer])
}

// A client waits for its body.
giveWay(5)
parentPort?.on('message', (wish: Wish) => {
  switch (wish.do) {
    case 'add': {
      const chunks = received.get(wish.id)
      if (chunks === undefined) received.set(wish.id, [wish.chunk])
      else chunks.push(wish.chunk)
      break
    }
    case 'end':
      end(wish.seq, wish.id)
      break
    case 'slice':
      slice(wish.seq, wish.id, wish.offset)
      break
    case 'drop':
      received.delete(wish.id)
      translated.delete(wish.id)
  }
})
