/**
 * One admitted completion, from its place in line to its closed row. The story, top to bottom:
 * take a place → open the row → send a run → deliver its lines under the grant → close the row → say so.
 *
 * `finish` runs once, whatever comes first: the last line, a cut grant, a fault, a client that left, a deadline, a
 * deleted user. It settles the hold, closes the row and only then lets the client read the end.
 */
import { ApiError } from './errors.ts'
import { type Covered, Grant } from './grant.ts'
import type { LargeBody } from './http/large-body.ts'
import type { Hold, Limits, WindowStore } from './limits/admission.ts'
import type { ModelLearnt } from './limits/learnt.ts'
import { type Cost, Meter, type MeteredRun } from './meter.ts'
import { Row } from './row.ts'
import type { Kind, Ledger, Outcome, TokenPrice } from './store/ledger.ts'
import type { Ticker } from './ticker.ts'
import { brokeOff, Lines } from './upstream/lines.ts'
import type { Answer, Upstream } from './upstream/ollama.ts'
import type { Place, Queue } from './upstream/queue.ts'
import { KEEP_ALIVE } from './wire/framing.ts'
import type { Line, OllamaPath, OllamaRequest } from './wire/ollama.ts'
import type { Writer } from './wire/writer.ts'

export type Run = MeteredRun & {
  request: OllamaRequest
  /** Tokens that its stop strings may keep from being shown, though Ollama counts them. */
  heldBack: number
  /** Where the messages are that `request` lacks, as it is a large one. */
  large?: LargeBody | undefined
}

/** What a dialect asks for: runs that come one after another, and how their lines are written down. */
export type Job = {
  kind: Kind
  path: OllamaPath
  model: string
  runs: Run[]
  /** The client's own cap on output, for each run; null when it set none. */
  maxTokens: number | null
  stream: boolean
  writer: Writer
  /** Ollama's refusal before its first line, in our words. */
  toFault: (status: number, text: string) => ApiError
  preview: string | null
}

/** Who it is for, and what was reserved: made by the limiting middleware. */
export type Ticket = {
  id: number
  userNumber: number
  userId: string
  keyId: number
  modelId: number
  price: TokenPrice
  /** Live: a changed limit holds from the next grant on. */
  limits: () => Limits
  hold: Hold
  promptPromised: number
  arrivedMs: number
  arrivedSteadyMs: number
  admittedAfterMs: number
  /** Set when the relay has it: from then on the hold is settled there. */
  taken: boolean
}

export type FlightDeps = {
  windows: WindowStore
  ledger: Ledger
  upstream: Upstream
  queue: Queue
  ticker: Ticker
  steady: () => number
  timeouts: { firstByteMs: number; upstreamIdleMs: number; clientStallMs: number }
  /** Called once per flight, when its row is closed (or it left without one). */
  observe: (outcome: FlightOutcome) => void
  /** Likewise, right before: the flight is no longer one of those to be stopped. */
  ended: (flight: Flight) => void
}

export type FlightOutcome = {
  id: number
  userId: string
  keyId: number
  model: string
  kind: Kind
  /** Undefined: it left the line before anything was sent; no row, no cost. */
  outcome: Outcome | undefined
  cost: Cost
  durationMs: number
  error?: ApiError | undefined
}

type Ending =
  | { outcome: 'completed'; cut: boolean }
  | { outcome: 'failed'; error: ApiError }
  | { outcome: 'cancelled'; error?: ApiError }

type Finished = { text: string; error: ApiError | undefined; cost: Cost }

/** What the flight waits for: its place in line, Ollama's status, Ollama's next line, or the client. */
type Phase = 'line' | 'status' | 'upstream' | 'client'

/** A stream waits this long for Ollama's status, so that errors are real statuses; then it commits to 200. */
const PATIENCE_MS = 8000
/** Clients and proxies give up on silence; a comment this often keeps them (openai-api.md §2.5). */
const KEEP_ALIVE_MS = 10_000

/** How long a body may stay open after the last line of its run. */
const READ_OUT_MS = 5000

/** The endings are ours to write: neither a run's end nor Ollama's death may close or break what the client reads. */
const keepOpen = { preventClose: true, preventAbort: true, preventCancel: true }

const encoder = new TextEncoder()
const nothing = () => {}

/** Nobody reads it: it ends the work of a client that is gone. */
export const leftEarly = () => new ApiError('client_left', 'The client left before the answer was complete.')

const toApiError = (error: unknown): ApiError =>
  error instanceof ApiError
    ? error
    : new ApiError('internal', 'The server failed to answer this request.', { cause: error })

/** The JSON of a request whose messages are added as they come. */
const withMessages = (
  request: OllamaRequest,
  messages: ReadableStream<Uint8Array>,
): ReadableStream<Uint8Array> => {
  const head = JSON.stringify({ ...request, messages: undefined })
  return messages.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      start: out => out.enqueue(encoder.encode(`${head.slice(0, -1)},"messages":`)),
      flush: out => out.enqueue(encoder.encode('}')),
    }),
  )
}

/** What was charged, if only for its prompt, an SDK must not repeat by itself. */
const toAnswer = ({ cost }: Finished, error: ApiError) => {
  if (cost.promptTokens + cost.completionTokens > 0) error.headers['x-should-retry'] = 'false'
  return error
}

/**
 * A class, and so are the parts that it is made of: one of each is made per request, and what lives while Ollama works
 * is visited by every garbage collection. As closures they were 93 functions and 39 scopes a request (docs/performance.md).
 */
export class Flight {
  readonly #deps: FlightDeps
  readonly #job: Job
  readonly #ticket: Ticket
  readonly #signal: AbortSignal
  readonly #meter: Meter
  readonly #grant: Grant
  readonly #row: Row
  readonly #abort = new AbortController()
  readonly #startedAt: number
  readonly #leave = () => void this.cancel()
  readonly #forgetTick: () => void

  #phase: Phase = 'line'
  #phaseSince: number
  #place: Place | undefined
  #queueMs = 0
  #opened = false
  #runIndex = 0
  #lines: Lines
  /** How Ollama ended the last run; its finish chunk is held back until the row is closed. */
  #lastReason: string | undefined
  #lastText = ''
  #ending: Promise<Finished> | undefined

  // Of a stream: where its bytes go, until it is over or the client is gone.
  #out: TransformStreamDefaultController<Uint8Array> | undefined
  #lastWriteAt: number
  /** Resolves when its status is decided: Ollama has answered, eight seconds have passed, or it is over. */
  #status: PromiseWithResolvers<void> | undefined
  /** How long it may be quiet before a comment: until it has committed, the patience itself. */
  #quietMs = PATIENCE_MS

  /** `signal`: the client's leaving, which ends it at once. */
  constructor(deps: FlightDeps, job: Job, ticket: Ticket, learnt: ModelLearnt, signal: AbortSignal) {
    this.#deps = deps
    this.#job = job
    this.#ticket = ticket
    this.#signal = signal
    this.#meter = new Meter(job.runs, learnt)
    this.#grant = new Grant(deps, this.#meter, ticket)
    this.#row = new Row(deps, this.#meter, job, ticket)
    this.#lines = new Lines(job.path)
    this.#startedAt = deps.steady()
    this.#phaseSince = this.#startedAt
    this.#lastWriteAt = this.#startedAt
    this.#forgetTick = deps.ticker.add(() => this.#tick())
    signal.addEventListener('abort', this.#leave, { once: true })
    if (signal.aborted) this.#leave()
  }

  // ---- the two ways of answering

  /** The whole answer's body. @throws ApiError */
  async collect(): Promise<string> {
    await this.#fly(async body => {
      const reader = body.getReader()
      for (
        let read = await reader.read();
        !read.done && this.#ending === undefined;
        read = await reader.read()
      ) {
        await this.#receive(read.value)
        if (this.#ending !== undefined) break
      }
      reader.releaseLock()
    })
    // Every way out of `#fly` has set an ending.
    const finished = await (this.#ending ?? this.#finish({ outcome: 'failed', error: brokeOff('no ending') }))
    if (finished.error === undefined) return finished.text
    throw toAnswer(finished, finished.error)
  }

  /**
   * The answer as SSE bytes, once Ollama's status is known or eight seconds have passed.
   * @throws ApiError while a real status can still be given.
   */
  async stream(): Promise<ReadableStream<Uint8Array>> {
    const transformer: Transformer<Uint8Array, Uint8Array> & { cancel: () => Promise<void> } = {
      start: controller => {
        this.#out = controller
      },
      transform: bytes => this.#receive(bytes),
      cancel: () => this.cancel(),
    }
    // One chunk may wait to be taken: that it does is how the deadlines know of a client that has stopped reading.
    const { readable, writable } = new TransformStream(transformer, undefined, { highWaterMark: 1 })
    this.#status = Promise.withResolvers<void>()
    if (this.#ending !== undefined) this.#status.resolve()
    void this.#fly(body => body.pipeTo(writable, keepOpen))
    await this.#status.promise
    const finished = await this.#ending
    if (finished?.error !== undefined) throw toAnswer(finished, finished.error)
    return readable
  }

  // ---- towards Ollama

  /** All runs in turn. Never rejects: whatever goes wrong becomes an ending. */
  async #fly(pass: (body: ReadableStream<Uint8Array>) => Promise<void>) {
    try {
      await this.#open()
      for (const [index, run] of this.#job.runs.entries()) {
        this.#runIndex = index
        if (index > 0) {
          this.#lines = new Lines(this.#job.path)
          this.#row.beforeRun()
        }
        const body = await this.#send(run)
        const death = await pass(body).then(() => undefined, brokeOff)
        if (this.#ending === undefined && death !== undefined) throw death
        if (this.#ending === undefined) await this.#deliver(this.#lines.end(), this.#deps.steady())
        if (this.#ending !== undefined) {
          if (this.#lines.done && !this.#abort.signal.aborted) this.#readOut(body)
          return
        }
        if (!this.#isLastRun() && this.#grant.isSpent(this.#deps.steady())) {
          void this.#finish({ outcome: 'completed', cut: true })
          return
        }
      }
    } catch (error) {
      void this.#finish({ outcome: 'failed', error: toApiError(error) })
    }
  }

  /** In line for Ollama, then the row: it is committed before anything is sent. */
  async #open() {
    const { queue, steady } = this.#deps
    const turn = queue.enter(this.#ticket.userNumber, this.#abort.signal)
    if (turn === undefined) {
      throw new ApiError(
        'overloaded',
        'All places in line for the model server are taken. Please try again.',
        { headers: { 'retry-after': String(queue.retryAfterS()) } },
      )
    }
    const asked = steady()
    this.#place = await turn
    this.#queueMs = Math.round(steady() - asked)
    if (this.#ending !== undefined) {
      this.#place.leave()
      throw leftEarly()
    }
    this.#opened = true
    try {
      await this.#row.open(this.#queueMs)
    } catch (error) {
      this.#opened = false
      throw error
    }
    if (this.#ending !== undefined) throw leftEarly()
  }

  async #send(run: Run): Promise<ReadableStream<Uint8Array>> {
    const { signal } = this.#abort
    const waited = this.#queueMs > 0 || this.#runIndex > 0
    const { maxTokens } = this.#job
    const request = this.#grant.capRequest(run, maxTokens, waited, this.#deps.steady())
    const body =
      run.large === undefined ? JSON.stringify(request) : withMessages(request, run.large.messages())
    this.#meter.sent()
    this.#enter('status', this.#deps.steady())
    let answer: Answer
    try {
      answer = await this.#deps.upstream.generate(this.#job.path, body, signal)
    } catch (error) {
      if (!signal.aborted) this.#meter.refused()
      throw error
    }
    if (!answer.ok) {
      this.#meter.refused()
      throw this.#job.toFault(answer.status, answer.text)
    }
    this.#enter('upstream', this.#deps.steady())
    this.#status?.resolve()
    return answer.body
  }

  /**
   * After a whole answer the rest of its body is read, so that the connection can serve the next request; a body that
   * stays open is let go.
   */
  #readOut(body: ReadableStream<Uint8Array>) {
    const { ticker, steady } = this.#deps
    const doneAt = steady()
    const forget = ticker.add(() => {
      if (steady() - doneAt >= READ_OUT_MS) this.#abort.abort(leftEarly())
    })
    const rest = async () => {
      const reader = body.getReader()
      while (!(await reader.read()).done);
    }
    void rest().then(forget, forget)
  }

  // ---- delivery: bytes → lines → as many as the grant covers → checkpointed → handed to the client

  /** Lines that arrived together go out together. */
  #receive(bytes: Uint8Array): void | Promise<void> {
    const nowMs = this.#deps.steady()
    const delivered = this.#deliver(this.#lines.push(bytes), nowMs)
    this.#enter('upstream', nowMs)
    return delivered
  }

  /** A fault of ours on the way must still close the row. */
  #deliver(read: Line[], nowMs: number): void | Promise<void> {
    if (this.#ending !== undefined) return
    try {
      const covered = this.#grant.cover(read, nowMs)
      const handed =
        covered instanceof Promise
          ? covered.then(late => this.#checkpointed(late, this.#deps.steady()))
          : this.#checkpointed(covered, nowMs)
      return handed?.then(nothing, error => this.#fail(error))
    } catch (error) {
      this.#fail(error)
    }
  }

  #checkpointed(covered: Covered, nowMs: number): undefined | Promise<unknown> {
    const committed = this.#job.stream && !this.#isEnd(covered.cut) ? this.#row.beforeDelivery() : undefined
    return committed === undefined
      ? this.#hand(covered, nowMs)
      : committed.then(() => this.#hand(covered, this.#deps.steady()))
  }

  #hand({ lines, tokens, cut }: Covered, nowMs: number): undefined | Promise<unknown> {
    if (this.#ending !== undefined) return
    let text = ''
    if (lines.length > 0) {
      // The prompts of later runs are not read yet: all stay reserved until the last run's first line.
      if (this.#isLastRun()) this.#deps.windows.promptDelivered(this.#ticket.hold, nowMs)
      this.#grant.deliver(tokens, this.#job.stream, nowMs)
      this.#row.noteFirstToken()
      text = this.#toText(lines)
    }
    if (this.#isEnd(cut)) {
      this.#lastText = text
      return this.#finish({ outcome: 'completed', cut })
    }
    this.#write(text, nowMs)
    const { fault } = this.#lines
    return fault === undefined ? undefined : this.#finish({ outcome: 'failed', error: fault })
  }

  #toText(lines: Line[]): string {
    const { writer } = this.#job
    let text = ''
    for (const line of lines) {
      text += writer.line(this.#runIndex, line)
      if (line.done !== true) continue
      if (this.#isLastRun()) this.#lastReason = line.done_reason
      else text += writer.endRun(this.#runIndex, line.done_reason)
    }
    return text
  }

  #write(text: string, nowMs: number) {
    if (text === '' || this.#out === undefined) return
    this.#lastWriteAt = nowMs
    this.#out.enqueue(encoder.encode(text))
  }

  #isLastRun() {
    return this.#runIndex === this.#job.runs.length - 1
  }

  /** Nothing comes after these lines: their text leaves together with the end, when the row is closed. */
  #isEnd(cut: boolean) {
    return cut || (this.#lines.done && this.#isLastRun())
  }

  // ---- the end

  /** The client is gone: nobody is told, Ollama stops, the row is closed. */
  async cancel() {
    this.#out = undefined
    await this.#finish({ outcome: 'cancelled' })
  }

  /** Ended from outside: a deleted user, the shutdown's deadline. A stream ends with this error as its last chunk. */
  async stop(error: ApiError, outcome: 'failed' | 'cancelled') {
    await this.#finish({ outcome, error })
  }

  #fail(error: unknown) {
    void this.#finish({ outcome: 'failed', error: toApiError(error) })
  }

  #finish(end: Ending): Promise<Finished> {
    this.#ending ??= this.#settleAndSay(end)
    return this.#ending
  }

  async #settleAndSay(end: Ending): Promise<Finished> {
    // Yields first: settling aborts Ollama, and what that sets off must already find this flight ending.
    await undefined
    let finished: Finished
    try {
      finished = await this.#settle(end)
    } catch (cause) {
      // A fault of ours while settling: the client is told all the same, or it would wait for ever.
      finished = { text: '', error: toApiError(cause), cost: this.#meter.cost() }
    }
    if (this.#out !== undefined) {
      const last = finished.error === undefined ? finished.text : this.#job.writer.fail(finished.error.body)
      this.#write(last, this.#deps.steady())
      this.#out.terminate()
    }
    this.#status?.resolve()
    return finished
  }

  async #settle(end: Ending): Promise<Finished> {
    const { windows, steady } = this.#deps
    const { hold } = this.#ticket
    this.#forgetTick()
    this.#place?.leave()
    const error = 'error' in end ? end.error : undefined
    if (end.outcome !== 'completed' || end.cut) this.#abort.abort(error ?? leftEarly())
    const cost = this.#meter.cost()
    const durationMs = this.#row.sinceArrival()
    if (!this.#opened) {
      windows.withdraw(hold)
      this.#tell(undefined, cost, durationMs, error)
      return { text: '', error: error ?? leftEarly(), cost }
    }
    windows.settle(hold, { prompt: cost.promptTokens, completion: cost.completionTokens }, steady())
    if (end.outcome === 'completed') this.#meter.learn()
    const unwritten = await this.#row
      .close(end.outcome, cost, this.#queueMs)
      .then(() => undefined, toApiError)
    const fault = error ?? unwritten
    this.#tell(end.outcome, cost, durationMs, fault)
    if (end.outcome !== 'completed' || fault !== undefined)
      return { text: '', error: fault ?? leftEarly(), cost }
    return { text: this.#lastWords(end.cut ? 'length' : this.#lastReason, cost), error: undefined, cost }
  }

  #lastWords(reason: string | undefined, cost: Cost): string {
    const { writer } = this.#job
    return (
      this.#lastText +
      writer.endRun(this.#runIndex, reason) +
      writer.end({
        prompt_tokens: cost.promptTokens,
        completion_tokens: cost.completionTokens,
        total_tokens: cost.promptTokens + cost.completionTokens,
        completion_tokens_details: { reasoning_tokens: cost.reasoningTokens },
      })
    )
  }

  #tell(outcome: Outcome | undefined, cost: Cost, durationMs: number, error: ApiError | undefined) {
    this.#signal.removeEventListener('abort', this.#leave)
    this.#deps.ended(this)
    this.#job.runs[0]?.large?.drop()

    const { id, userId, keyId } = this.#ticket
    const { model, kind } = this.#job
    this.#deps.observe({
      id,
      userId,
      keyId,
      model,
      kind,
      outcome,
      cost,
      durationMs,
      error,
    })
  }

  // ---- deadlines

  #enter(phase: Phase, nowMs: number) {
    this.#phase = phase
    this.#phaseSince = nowMs
  }

  #tick() {
    const { timeouts, steady } = this.#deps
    const nowMs = steady()
    this.#row.tick(nowMs)
    // What a stream has written and nobody has taken: the client is waited for, and Ollama's own timer rests.
    const unread = this.#out !== undefined && (this.#out.desiredSize ?? 1) <= 0
    if (unread && this.#phase === 'upstream') this.#phase = 'client'
    else if (!unread && this.#phase === 'client') this.#enter('upstream', nowMs)
    const waited = nowMs - this.#phaseSince
    if (this.#phase === 'status' && waited >= timeouts.firstByteMs) {
      this.#fail(new ApiError('upstream_timeout', 'The model server did not begin to answer in time.'))
    } else if (this.#phase === 'upstream' && waited >= timeouts.upstreamIdleMs) {
      this.#fail(
        new ApiError('upstream_timeout', 'The model server fell silent in the middle of the answer.'),
      )
    } else if (this.#phase === 'client' && waited >= timeouts.clientStallMs) {
      this.#out?.error(new Error('the client stopped reading'))
      void this.cancel()
    } else if (
      this.#job.stream &&
      nowMs - this.#startedAt >= PATIENCE_MS &&
      this.#phase !== 'client' &&
      nowMs - this.#lastWriteAt >= this.#quietMs
    ) {
      this.#status?.resolve()
      this.#quietMs = KEEP_ALIVE_MS
      this.#write(KEEP_ALIVE, nowMs)
    }
  }
}
