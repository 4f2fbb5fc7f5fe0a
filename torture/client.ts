/** One attempt as a client sees it: what it read, when, and how it ended. */
import type { Attempt } from './plan.ts'
import { countWords, createEventReader, field, list } from './sse.ts'

type Usage = { prompt: number; completion: number }

/**
 * `whole`: read to its end (`[DONE]`, or the whole JSON). `refused`: a status of 400 or more. `error chunk`: a stream
 * that said it failed. `left`: the client went away. `cut`: the connection broke. `unreachable`: no answer at all.
 */
type End = 'whole' | 'refused' | 'error chunk' | 'left' | 'cut' | 'unreachable'

export type Seen = {
  attempt: Attempt
  startedMs: number
  endedMs: number
  end: End
  status: number | undefined
  code: string | undefined
  retryAfterMs: number | undefined
  shouldRetry: string | undefined
  /** The proxy's own id of the request, from the header. */
  requestId: string | undefined
  /** The completion ids of the body; one, if all is well. */
  ids: Set<string>
  /** Tokens of text read, thinking included, by our own count. */
  tokens: number
  /** Events that held text. */
  reads: { atMs: number; tokens: number }[]
  usage: Usage | undefined
  /** What was wrong with the shape of the answer. */
  faults: string[]
}

/** Moments at which the proxy may be killed from a client's own turn. */
export type Moment = 'sent' | 'first token' | 'token' | 'end'

export type ClientDeps = {
  baseUrl: () => string
  now: () => number
  reached: (moment: Moment) => void
  /** Leaves after so long in any case. */
  patienceMs?: number
}

const paths = {
  chat: '/v1/chat/completions',
  completion: '/v1/completions',
  embedding: '/v1/embeddings',
} as const

const tool = {
  type: 'function',
  function: { name: 'find_boat', parameters: { type: 'object', properties: { name: { type: 'string' } } } },
}

const toBody = (attempt: Attempt) => {
  const { dialect, model, prompt, stream, choices, includeUsage, maxTokens } = attempt
  if (dialect === 'embedding') return { model, input: prompt }
  return {
    model,
    ...(dialect === 'chat' ? { messages: [{ role: 'user', content: prompt }] } : { prompt }),
    stream,
    ...(choices === 1 ? {} : { n: choices }),
    ...(includeUsage === undefined ? {} : { stream_options: { include_usage: includeUsage } }),
    max_tokens: maxTokens ?? 4000,
    ...(attempt.withTool ? { tools: [tool] } : {}),
  }
}

const toUsage = (value: unknown): Usage | undefined => {
  const prompt = field(value, 'prompt_tokens')
  const completion = field(value, 'completion_tokens') ?? 0
  return typeof prompt === 'number' && typeof completion === 'number' ? { prompt, completion } : undefined
}

const textOf = (choice: unknown): string => {
  const part = field(choice, 'delta') ?? field(choice, 'message')
  const pieces = [field(part, 'content'), field(part, 'reasoning_content'), field(choice, 'text')]
  return pieces.filter(piece => typeof piece === 'string').join('')
}

export const perform = async (attempt: Attempt, deps: ClientDeps): Promise<Seen> => {
  const abort = new AbortController()
  const seen: Seen = {
    attempt,
    startedMs: deps.now(),
    endedMs: 0,
    end: 'unreachable',
    status: undefined,
    code: undefined,
    retryAfterMs: undefined,
    shouldRetry: undefined,
    requestId: undefined,
    ids: new Set(),
    tokens: 0,
    reads: [],
    usage: undefined,
    faults: [],
  }
  let left = false
  const leave = () => {
    left = true
    abort.abort()
  }
  const wrong = (fault: string) => {
    if (seen.faults.length < 3) seen.faults.push(fault)
  }
  const { at } = attempt.leave
  const leaveAfterMs = at === 'time' ? attempt.leave.afterMs : deps.patienceMs
  const timer = leaveAfterMs === undefined ? undefined : setTimeout(leave, leaveAfterMs)

  const finishes = new Set<unknown>()
  let usages = 0
  let ended = false
  let failed = false

  const readChoices = (chunk: unknown) => {
    let tokens = 0
    for (const choice of list(field(chunk, 'choices'))) {
      tokens += countWords(textOf(choice))
      const index = field(choice, 'index')
      if (typeof field(choice, 'finish_reason') !== 'string') continue
      if (finishes.has(index)) wrong(`choice ${index} has two finish reasons`)
      finishes.add(index)
    }
    if (tokens === 0) return
    deps.reached(seen.tokens === 0 ? 'first token' : 'token')
    seen.tokens += tokens
    seen.reads.push({ atMs: deps.now(), tokens })
  }

  const readUsage = (chunk: unknown) => {
    const usage = toUsage(field(chunk, 'usage'))
    if (usage === undefined) return
    usages++
    seen.usage = usage
    if (field(field(chunk, 'usage'), 'total_tokens') !== usage.prompt + usage.completion)
      wrong('total_tokens is not the sum')
  }

  const readEvent = (data: string) => {
    if (ended || failed) wrong(`something follows the end: ${data.slice(0, 60)}`)
    if (data === '[DONE]') {
      ended = true
      return
    }
    const chunk: unknown = JSON.parse(data)
    if (field(chunk, 'error') !== undefined) {
      failed = true
      seen.code = String(field(field(chunk, 'error'), 'code'))
      return
    }
    const id = field(chunk, 'id')
    if (typeof id === 'string') seen.ids.add(id)
    readChoices(chunk)
    readUsage(chunk)
    if (at === 'tokens' && attempt.leave.count <= seen.tokens) leave()
    if (at === 'finish' && finishes.size === attempt.choices) leave()
  }

  const readStream = async (body: ReadableStream<Uint8Array>) => {
    const split = createEventReader()
    for await (const bytes of body) {
      for (const data of split(bytes)) if (!left) readEvent(data)
      if (ended) deps.reached('end')
      if (attempt.slowMs > 0) await Bun.sleep(attempt.slowMs)
    }
    if (left) return
    if (!ended) {
      seen.end = failed ? 'error chunk' : 'cut'
      return
    }
    seen.end = 'whole'
    if (finishes.size !== attempt.choices)
      wrong(`${finishes.size} of ${attempt.choices} choices were finished`)
    const asked = attempt.includeUsage === true ? 1 : 0
    if (usages !== asked) wrong(`usage stands ${usages} times, asked for ${asked} times`)
  }

  const readWhole = (body: unknown) => {
    seen.end = 'whole'
    const id = field(body, 'id')
    if (typeof id === 'string') seen.ids.add(id)
    readChoices(body)
    readUsage(body)
    deps.reached('end')
    if (seen.usage === undefined) wrong('no usage in a whole answer')
    if (attempt.dialect === 'embedding') {
      if (list(field(body, 'data')).length !== 1) wrong('no embedding')
    } else if (finishes.size !== attempt.choices) wrong(`${finishes.size} of ${attempt.choices} choices`)
  }

  try {
    const asked = fetch(deps.baseUrl() + paths[attempt.dialect], {
      method: 'POST',
      headers: {
        authorization: `Bearer ${attempt.apiKey}`,
        'content-type': 'application/json',
        connection: 'close',
        ...(attempt.requestId === undefined ? {} : { 'x-request-id': attempt.requestId }),
      },
      body: JSON.stringify(toBody(attempt)),
      signal: abort.signal,
      // One connection a request: a pooled one would let fetch send the same request twice by itself.
      keepalive: false,
    })
    deps.reached('sent')
    const answer = await asked
    seen.end = 'cut'
    seen.status = answer.status
    seen.requestId = answer.headers.get('x-request-id') ?? undefined
    if (seen.requestId === undefined) wrong('no x-request-id')
    if (seen.requestId === attempt.requestId) wrong("the client's own id was used as the request's")
    if (answer.status !== 200) {
      const wait = answer.headers.get('retry-after-ms')
      if (wait !== null) seen.retryAfterMs = Number(wait)
      seen.shouldRetry = answer.headers.get('x-should-retry') ?? undefined
      const body: unknown = await answer.json()
      seen.end = 'refused'
      seen.code = String(field(field(body, 'error'), 'code'))
      if (typeof field(field(body, 'error'), 'message') !== 'string') wrong('an error without a message')
    } else if (attempt.stream && answer.body !== null) await readStream(answer.body)
    else readWhole(await answer.json())
  } catch (error) {
    // Faults of the connection end here; what the client itself set off is told apart below.
    if (error instanceof SyntaxError && !left) wrong(`not JSON: ${error.message}`)
  } finally {
    clearTimeout(timer)
  }
  if (left) seen.end = 'left'
  if (seen.ids.size > 1) wrong(`${seen.ids.size} ids in one answer`)
  seen.endedMs = deps.now()
  return seen
}
