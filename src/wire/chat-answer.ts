/**
 * Ollama's lines → a chat completion, streamed or whole (openai-api §2).
 *
 * Of a stream, SDKs rely on this: role in a choice's first delta and nowhere else, no empty content, each tool call
 * whole in one delta under its own index, one finish_reason a choice, usage last, never an `error` key in a chunk.
 */
import type { ErrorBody } from '../errors.ts'
import { DONE, encodeEvent, escapeSeparators } from './framing.ts'
import { createLogprobReader, type LogprobReader } from './logprobs.ts'
import type { Line } from './ollama.ts'
import type { AssistantMessage, ChatCompletion, Delta, FinishReason, Logprobs, ToolCall } from './openai.ts'
import { type CallReader, createCallReader } from './tool-calls.ts'
import type { Usage, Writer } from './writer.ts'

/** What an answer says of itself, the same in every chunk. */
export type AnswerHead = {
  id: string
  /** Epoch seconds. */
  created: number
  /** As the client spelt it. */
  model: string
  /** Choices that were asked for. One that never ran is ended with `length`, for an SDK waits for each. */
  choices: number
  /** Streams: a usage chunk at the end. */
  includeUsage: boolean
  logprobs: boolean
  legacyFunctions: boolean
  firstToolCallOnly: boolean
  customTools?: ReadonlySet<string>
  newToolCallId: () => string
  serviceTier?: boolean
}

/** Ollama says `stop` for tool calls too, and nothing at all in some ends; a limit's `length` is kept. */
const toFinishReason = (reason: string | undefined, calls: number, legacy: boolean): FinishReason => {
  if (reason === 'length' || reason === 'content_filter') return reason
  if (calls === 0) return 'stop'
  return legacy ? 'function_call' : 'tool_calls'
}

/** A line's parts that say something. Fields of a line may be of any type: only its being an object is known. */
const partsOf = (line: Line) => {
  const { content, thinking, tool_calls: calls } = line.message ?? {}
  return {
    content: typeof content === 'string' ? content : '',
    thinking: typeof thinking === 'string' ? thinking : '',
    calls: Array.isArray(calls) ? calls : [],
  }
}

const toFunctionCall = (call: ToolCall | undefined) => (call?.type === 'function' ? call.function : undefined)

type StreamedRun = {
  started: boolean
  finished: boolean
  calls: CallReader
  logprobs: LogprobReader | undefined
  /** An event up to its text: most lines are plain text, and only the text of theirs differs. */
  beforeContent: string
  beforeReasoning: string
}
const afterText = '},"finish_reason":null}]}\n\n'

/** Server-sent events, one or none a line; `end` closes with usage where asked for and `[DONE]`. */
export const createChatStream = (head: AnswerHead): Writer => {
  const { id, created, model, legacyFunctions, serviceTier } = head
  const identity = { id, object: 'chat.completion.chunk', created, model }
  const common = escapeSeparators(
    JSON.stringify(serviceTier === true ? { ...identity, service_tier: 'default' } : identity).slice(0, -1),
  )
  const runs: (StreamedRun | undefined)[] = []

  const runOf = (index: number): StreamedRun => {
    const known = runs[index]
    if (known !== undefined) return known
    const before = `data: ${common},"choices":[{"index":${index},"delta":{`
    const run: StreamedRun = {
      started: false,
      finished: false,
      calls: createCallReader(head),
      logprobs: head.logprobs ? createLogprobReader() : undefined,
      beforeContent: `${before}"content":`,
      beforeReasoning: `${before}"reasoning_content":`,
    }
    runs[index] = run
    return run
  }

  const event = (index: number, delta: Delta, finish: FinishReason | null, logprobs?: Logprobs): string => {
    const run = runOf(index)
    const whole = run.started ? delta : { role: 'assistant', ...delta }
    run.started = true
    const choice = {
      index,
      delta: whole,
      ...(logprobs === undefined ? {} : { logprobs }),
      finish_reason: finish,
    }
    return encodeEvent(`${common},"choices":[${JSON.stringify(choice)}]}`)
  }

  const callEvent = (index: number, run: StreamedRun, line: Line): string => {
    const first = run.calls.count()
    const calls = run.calls.read(partsOf(line).calls)
    if (calls.length === 0) return ''
    const opening = run.started ? {} : { content: null }
    const legacyCall = legacyFunctions ? toFunctionCall(calls[0]) : undefined
    const delta =
      legacyCall === undefined
        ? { ...opening, tool_calls: calls.map((call, offset) => ({ index: first + offset, ...call })) }
        : { ...opening, function_call: legacyCall }
    return event(index, delta, null)
  }

  const endRun = (index: number, reason: string | undefined): string => {
    const run = runOf(index)
    if (run.finished) return ''
    run.finished = true
    return event(index, {}, toFinishReason(reason, run.calls.count(), legacyFunctions))
  }

  return {
    line(index, line) {
      const run = runOf(index)
      const { content, thinking, calls } = partsOf(line)
      const logprobs = run.logprobs?.read(line, content)
      let events = ''
      if (thinking !== '')
        events += run.started
          ? run.beforeReasoning + escapeSeparators(JSON.stringify(thinking)) + afterText
          : event(index, { reasoning_content: thinking }, null)
      if (content !== '')
        events +=
          run.started && logprobs === undefined
            ? run.beforeContent + escapeSeparators(JSON.stringify(content)) + afterText
            : event(index, { content }, null, logprobs)
      if (calls.length > 0) events += callEvent(index, run, line)
      return events
    },
    endRun,
    end(usage) {
      let events = ''
      for (let index = 0; index < head.choices; index++) events += endRun(index, 'length')
      if (head.includeUsage) events += encodeEvent(`${common},"choices":[],"usage":${JSON.stringify(usage)}}`)
      return events + DONE
    },
    fail: (error: ErrorBody) => encodeEvent(JSON.stringify(error)),
  }
}

type WholeRun = {
  content: string
  thinking: string
  calls: CallReader
  told: ToolCall[]
  logprobs: LogprobReader | undefined
  shown: Logprobs['content']
  finish: FinishReason | undefined
}

/** One JSON object, built from the lines and given by `end`. */
export const createChatAnswer = (head: AnswerHead): Writer => {
  const { id, created, model, legacyFunctions, serviceTier } = head
  const runs: (WholeRun | undefined)[] = []

  const runOf = (index: number): WholeRun => {
    const known = runs[index]
    if (known !== undefined) return known
    const run: WholeRun = {
      content: '',
      thinking: '',
      calls: createCallReader(head),
      told: [],
      logprobs: head.logprobs ? createLogprobReader() : undefined,
      shown: [],
      finish: undefined,
    }
    runs[index] = run
    return run
  }

  const toMessage = ({ content, thinking, told }: WholeRun): AssistantMessage => {
    const legacyCall = legacyFunctions ? toFunctionCall(told[0]) : undefined
    return {
      role: 'assistant',
      content: content === '' && told.length > 0 ? null : content,
      refusal: null,
      annotations: [],
      ...(thinking === '' ? {} : { reasoning_content: thinking }),
      ...(legacyCall === undefined ? {} : { function_call: legacyCall }),
      ...(told.length > 0 && legacyCall === undefined ? { tool_calls: told } : {}),
    }
  }

  const toChoice = (index: number): ChatCompletion['choices'][number] => {
    const run = runOf(index)
    return {
      index,
      message: toMessage(run),
      logprobs: run.shown.length > 0 ? { content: run.shown, refusal: null } : null,
      finish_reason: run.finish ?? 'length',
    }
  }

  return {
    line(index, line) {
      const run = runOf(index)
      const { content, thinking, calls } = partsOf(line)
      run.content += content
      run.thinking += thinking
      const logprobs = run.logprobs?.read(line, content)
      if (logprobs !== undefined) for (const token of logprobs.content) run.shown.push(token)
      if (calls.length > 0) run.told.push(...run.calls.read(calls))
      return ''
    },
    endRun(index, reason) {
      const run = runOf(index)
      run.finish ??= toFinishReason(reason, run.told.length, legacyFunctions)
      return ''
    },
    end(usage: Usage) {
      const completion: ChatCompletion = {
        id,
        object: 'chat.completion',
        created,
        model,
        choices: Array.from({ length: Math.max(head.choices, runs.length) }, (_, index) => toChoice(index)),
        usage,
        ...(serviceTier === true ? { service_tier: 'default' as const } : {}),
      }
      return JSON.stringify(completion)
    },
    fail: (error: ErrorBody) => JSON.stringify(error),
  }
}
