/** Legacy completions on their way out: lines of `/api/generate` as `text_completion` objects (openai-api.md §5.2). */
import type { ErrorBody } from '../errors.ts'
import type { PreparedCompletion } from './completions.ts'
import { DONE, encodeEvent } from './framing.ts'
import { createLogprobReader } from './logprobs.ts'
import type { Line } from './ollama.ts'
import type { TokenLogprob } from './openai.ts'
import type { Usage, Writer } from './writer.ts'

/** What an answer says of itself, the same in every chunk, and the request it answers. */
type CompletionHead = {
  /** `cmpl-…` */
  id: string
  /** Epoch seconds. */
  created: number
  /** As the client spelt it. */
  model: string
  prepared: PreparedCompletion
}

type CompletionLogprobs = {
  tokens: string[]
  token_logprobs: number[]
  /** Per token the likeliest ones, and the chosen one in any case. */
  top_logprobs: Record<string, number>[]
  /** Where each token begins in the choice's text, in characters (code points, as OpenAI counts). */
  text_offset: number[]
}

type CompletionChoice = {
  index: number
  text: string
  logprobs: CompletionLogprobs | null
  finish_reason: 'stop' | 'length' | null
}

export type Completion = {
  id: string
  object: 'text_completion'
  created: number
  model: string
  choices: CompletionChoice[]
  usage?: Usage
}

const charactersIn = (text: string): number => {
  let count = 0
  for (const _ of text) count += 1
  return count
}

const toFinishReason = (reason: string | undefined) => (reason === 'length' ? 'length' : 'stop')

/** Appends chat's log probabilities in the legacy form; the first token begins at character `start` of the text. */
const appendLegacy = (into: CompletionLogprobs | null, entries: TokenLogprob[], start: number) => {
  if (entries.length === 0) return into
  const legacy = into ?? { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] }
  let offset = start
  for (const { token, logprob, top_logprobs: top } of entries) {
    legacy.tokens.push(token)
    legacy.token_logprobs.push(logprob)
    legacy.top_logprobs.push(
      Object.fromEntries([...top.map(one => [one.token, one.logprob]), [token, logprob]]),
    )
    legacy.text_offset.push(offset)
    offset += charactersIn(token)
  }
  return legacy
}

type Piece = { text: string; logprobs: TokenLogprob[] }

/** Reads one run. Thinking that came in spite of `think: false` has no place here, nor have its log probabilities. */
const createRunReader = () => {
  const reader = createLogprobReader()
  return (line: Line): Piece => {
    const text = typeof line.response === 'string' ? line.response : ''
    const { thinking, logprobs } = line
    const read = reader.read(
      { ...(logprobs && { logprobs }), ...(thinking !== undefined && { message: { thinking } }) },
      text,
    )
    return { text, logprobs: read?.content ?? [] }
  }
}

/** A choice's state: made at its first line, or at its end when it had none. */
const createChoices = <State>(create: (index: number) => State) => {
  const states = new Map<number, State>()
  return (index: number): State => {
    const known = states.get(index)
    if (known !== undefined) return known
    const state = create(index)
    states.set(index, state)
    return state
  }
}

/** The text a choice begins with: its prompt, when that is to be echoed. It was not generated, so it has no scores. */
const echoOf = ({ echo, requests, choices }: PreparedCompletion, index: number): string =>
  echo ? (requests[Math.floor(index / choices)]?.prompt ?? '') : ''

/** Choices that were asked for. One that never ran is ended with `length`, for a client waits for each. */
const choicesIn = ({ requests, choices }: PreparedCompletion) => requests.length * choices

/**
 * A stream: a chunk per piece of text, never an empty one; one chunk with the finish reason per choice (a choice that
 * never ran is ended with `length`); usage where asked for; `[DONE]`.
 */
export const createCompletionStream = ({ id, created, model, prepared }: CompletionHead): Writer => {
  const stateOf = createChoices(index => ({
    read: createRunReader(),
    echo: echoOf(prepared, index),
    length: 0,
    finished: false,
  }))
  const write = (choices: CompletionChoice[], usage?: Usage): string => {
    const chunk: Completion = { id, object: 'text_completion', created, model, choices }
    return encodeEvent(JSON.stringify(usage === undefined ? chunk : { ...chunk, usage }))
  }
  const writeText = (index: number, { text, logprobs }: Piece): string => {
    if (text === '') return ''
    const state = stateOf(index)
    const start = state.length
    state.length += charactersIn(text)
    return write([{ index, text, logprobs: appendLegacy(null, logprobs, start), finish_reason: null }])
  }
  const writeEcho = (index: number): string => {
    const state = stateOf(index)
    const text = state.echo
    state.echo = ''
    return writeText(index, { text, logprobs: [] })
  }
  const endRun = (index: number, reason: string | undefined): string => {
    const state = stateOf(index)
    if (state.finished) return ''
    state.finished = true
    return (
      writeEcho(index) + write([{ index, text: '', logprobs: null, finish_reason: toFinishReason(reason) }])
    )
  }
  return {
    line: (index, line) => writeEcho(index) + writeText(index, stateOf(index).read(line)),
    endRun,
    end(usage) {
      let events = ''
      for (let index = 0; index < choicesIn(prepared); index++) events += endRun(index, 'length')
      return events + (prepared.includeUsage ? write([], usage) : '') + DONE
    },
    fail: (error: ErrorBody) => encodeEvent(JSON.stringify(error)),
  }
}

/** One JSON object, built from the lines and given by `end`. */
export const createCompletionAnswer = ({ id, created, model, prepared }: CompletionHead): Writer => {
  const stateOf = createChoices(index => ({
    read: createRunReader(),
    text: echoOf(prepared, index),
    length: charactersIn(echoOf(prepared, index)),
    logprobs: null as CompletionLogprobs | null,
    finish: undefined as CompletionChoice['finish_reason'] | undefined,
  }))
  const toChoice = (index: number): CompletionChoice => {
    const { text, logprobs, finish } = stateOf(index)
    return { index, text, logprobs, finish_reason: finish ?? 'length' }
  }
  return {
    line(index, line) {
      const state = stateOf(index)
      const { text, logprobs } = state.read(line)
      state.logprobs = appendLegacy(state.logprobs, logprobs, state.length)
      state.text += text
      state.length += charactersIn(text)
      return ''
    },
    endRun(index, reason) {
      stateOf(index).finish ??= toFinishReason(reason)
      return ''
    },
    end(usage) {
      const choices = Array.from({ length: choicesIn(prepared) }, (_, index) => toChoice(index))
      const completion: Completion = { id, object: 'text_completion', created, model, choices, usage }
      return JSON.stringify(completion)
    },
    fail: (error: ErrorBody) => JSON.stringify(error),
  }
}
