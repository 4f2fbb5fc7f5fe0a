/**
 * Ollama's lines → a chat completion, streamed or whole (openai-api §2).
 *
 * Of a stream, SDKs rely on this: role in a choice's first delta and nowhere else, no empty content, each tool call
 * whole in one delta under its own index, one finish_reason a choice, usage last, never an `error` key in a chunk.
 */
import type { ErrorBody } from '../errors.ts'
import { DONE, encodeEvent, escapeSeparators } from './framing.ts'
import { createLogprobReader, type LogprobReader } from './logprobs.ts'
import type { Line, OllamaToolCall } from './ollama.ts'
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

const afterText = '},"finish_reason":null}]}\n\n'

/** One choice of a stream. */
class StreamedRun {
  readonly calls: CallReader
  readonly logprobs: LogprobReader | undefined
  /** An event up to its text: most lines are plain text, and only the text of theirs differs. */
  readonly beforeContent: string
  readonly beforeReasoning: string
  started = false
  finished = false

  constructor(head: AnswerHead, common: string, index: number) {
    const before = `data: ${common},"choices":[{"index":${index},"delta":{`
    this.calls = createCallReader(head)
    this.logprobs = head.logprobs ? createLogprobReader() : undefined
    this.beforeContent = `${before}"content":`
    this.beforeReasoning = `${before}"reasoning_content":`
  }
}

class ChatStream implements Writer {
  readonly #head: AnswerHead
  /** The members that all chunks share, without the closing brace. */
  readonly #common: string
  readonly #runs: (StreamedRun | undefined)[] = []

  constructor(head: AnswerHead) {
    const { id, created, model, serviceTier } = head
    const identity = { id, object: 'chat.completion.chunk', created, model }
    this.#head = head
    this.#common = escapeSeparators(
      JSON.stringify(serviceTier === true ? { ...identity, service_tier: 'default' } : identity).slice(0, -1),
    )
  }

  line(index: number, line: Line): string {
    const run = this.#runOf(index)
    const { content, thinking, calls } = partsOf(line)
    const logprobs = run.logprobs?.read(line, content)
    let events = ''
    if (thinking !== '')
      events += run.started
        ? run.beforeReasoning + escapeSeparators(JSON.stringify(thinking)) + afterText
        : this.#event(index, { reasoning_content: thinking }, null)
    if (content !== '')
      events +=
        run.started && logprobs === undefined
          ? run.beforeContent + escapeSeparators(JSON.stringify(content)) + afterText
          : this.#event(index, { content }, null, logprobs)
    if (calls.length > 0) events += this.#callEvent(index, run, calls)
    return events
  }

  endRun(index: number, reason: string | undefined): string {
    const run = this.#runOf(index)
    if (run.finished) return ''
    run.finished = true
    return this.#event(index, {}, toFinishReason(reason, run.calls.count(), this.#head.legacyFunctions))
  }

  end(usage: Usage): string {
    let events = ''
    for (let index = 0; index < this.#head.choices; index++) events += this.endRun(index, 'length')
    if (this.#head.includeUsage)
      events += encodeEvent(`${this.#common},"choices":[],"usage":${JSON.stringify(usage)}}`)
    return events + DONE
  }

  fail(error: ErrorBody): string {
    return encodeEvent(JSON.stringify(error))
  }

  #runOf(index: number): StreamedRun {
    const known = this.#runs[index]
    if (known !== undefined) return known
    const run = new StreamedRun(this.#head, this.#common, index)
    this.#runs[index] = run
    return run
  }

  #event(index: number, delta: Delta, finish: FinishReason | null, logprobs?: Logprobs): string {
    const run = this.#runOf(index)
    const whole = run.started ? delta : { role: 'assistant', ...delta }
    run.started = true
    const choice = {
      index,
      delta: whole,
      ...(logprobs === undefined ? {} : { logprobs }),
      finish_reason: finish,
    }
    return encodeEvent(`${this.#common},"choices":[${JSON.stringify(choice)}]}`)
  }

  #callEvent(index: number, run: StreamedRun, told: OllamaToolCall[]): string {
    const first = run.calls.count()
    const calls = run.calls.read(told)
    if (calls.length === 0) return ''
    const opening = run.started ? {} : { content: null }
    const legacyCall = this.#head.legacyFunctions ? toFunctionCall(calls[0]) : undefined
    const delta =
      legacyCall === undefined
        ? { ...opening, tool_calls: calls.map((call, offset) => ({ index: first + offset, ...call })) }
        : { ...opening, function_call: legacyCall }
    return this.#event(index, delta, null)
  }
}

/** Server-sent events, one or none a line; `end` closes with usage where asked for and `[DONE]`. */
export const createChatStream = (head: AnswerHead): Writer => new ChatStream(head)

/** One choice of a plain answer. */
class WholeRun {
  readonly calls: CallReader
  readonly logprobs: LogprobReader | undefined
  readonly told: ToolCall[] = []
  readonly shown: Logprobs['content'] = []
  content = ''
  thinking = ''
  finish: FinishReason | undefined

  constructor(head: AnswerHead) {
    this.calls = createCallReader(head)
    this.logprobs = head.logprobs ? createLogprobReader() : undefined
  }
}

class ChatAnswer implements Writer {
  readonly #head: AnswerHead
  readonly #runs: (WholeRun | undefined)[] = []

  constructor(head: AnswerHead) {
    this.#head = head
  }

  line(index: number, line: Line): string {
    const run = this.#runOf(index)
    const { content, thinking, calls } = partsOf(line)
    run.content += content
    run.thinking += thinking
    const logprobs = run.logprobs?.read(line, content)
    if (logprobs !== undefined) for (const token of logprobs.content) run.shown.push(token)
    if (calls.length > 0) run.told.push(...run.calls.read(calls))
    return ''
  }

  endRun(index: number, reason: string | undefined): string {
    const run = this.#runOf(index)
    run.finish ??= toFinishReason(reason, run.told.length, this.#head.legacyFunctions)
    return ''
  }

  end(usage: Usage): string {
    const { id, created, model, choices, serviceTier } = this.#head
    const completion: ChatCompletion = {
      id,
      object: 'chat.completion',
      created,
      model,
      choices: Array.from({ length: Math.max(choices, this.#runs.length) }, (_, index) =>
        this.#toChoice(index),
      ),
      usage,
      ...(serviceTier === true ? { service_tier: 'default' as const } : {}),
    }
    return JSON.stringify(completion)
  }

  fail(error: ErrorBody): string {
    return JSON.stringify(error)
  }

  #runOf(index: number): WholeRun {
    const known = this.#runs[index]
    if (known !== undefined) return known
    const run = new WholeRun(this.#head)
    this.#runs[index] = run
    return run
  }

  #toChoice(index: number): ChatCompletion['choices'][number] {
    const run = this.#runOf(index)
    return {
      index,
      message: this.#toMessage(run),
      logprobs: run.shown.length > 0 ? { content: run.shown, refusal: null } : null,
      finish_reason: run.finish ?? 'length',
    }
  }

  #toMessage({ content, thinking, told }: WholeRun): AssistantMessage {
    const legacyCall = this.#head.legacyFunctions ? toFunctionCall(told[0]) : undefined
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
}

/** One JSON object, built from the lines and given by `end`. */
export const createChatAnswer = (head: AnswerHead): Writer => new ChatAnswer(head)
