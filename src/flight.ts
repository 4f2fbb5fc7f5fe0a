/**
 * One admitted completion, from its place in line to its closed row. The story, top to bottom:
 * take a place → open the row → send a run → deliver its lines under the grant → close the row → say so.
 *
 * `finish` runs once, whatever comes first: the last line, a cut grant, a fault, a client that left, a deadline, a
 * deleted user. It settles the hold, closes the row and only then lets the client read the end.
 */
import { ApiError } from './errors.ts'
import type { Hold, Limits, WindowStore } from './limits/admission.ts'
import type { ModelLearnt } from './limits/learnt.ts'
import { type Cost, createMeter, type MeteredRun } from './meter.ts'
import type { Closing, Kind, Ledger, Outcome, TokenPrice } from './store/ledger.ts'
import type { Ticker } from './ticker.ts'
import { createLines, type Lines, type Read } from './upstream/lines.ts'
import type { Upstream } from './upstream/ollama.ts'
import type { Place, Queue } from './upstream/queue.ts'
import { KEEP_ALIVE } from './wire/framing.ts'
import type { Line, OllamaPath, OllamaRequest } from './wire/ollama.ts'
import type { Writer } from './wire/writer.ts'

export type Run = MeteredRun & { request: OllamaRequest }

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

/** What the flight waits for; each has a deadline of its own, and they rest meanwhile. */
type Phase = 'line' | 'status' | 'upstream' | 'client'

/** A stream waits this long for Ollama's status, so that errors are real statuses; then it commits to 200. */
const PATIENCE_MS = 8000
/** Clients and proxies give up on silence; a comment this often keeps them (openai-api.md §2.5). */
const KEEP_ALIVE_MS = 10_000
/** A longer answer grows its grant by so many tokens at a time. */
const GRANT_STEP = 256
const CHECKPOINT_TOKENS = 16
const CHECKPOINT_MS = 1000

const encoder = new TextEncoder()
const leftEarly = () => new ApiError('internal', 'The client left before the answer was complete.')

export const createFlight = (deps: FlightDeps, job: Job, ticket: Ticket, learnt: ModelLearnt) => {
  const { windows, ledger, steady } = deps
  const { hold } = ticket
  const { writer } = job
  const meter = createMeter(job.runs, learnt)
  const abort = new AbortController()
  const startedAt = steady()
  const sinceArrival = () => Math.round(steady() - ticket.arrivedSteadyMs)

  let phase: Phase = 'line'
  let phaseSince = startedAt
  const enter = (next: Phase) => {
    phase = next
    phaseSince = steady()
  }

  let place: Place | undefined
  let queueMs = 0
  let opened = false
  let runIndex = 0
  let lines: Lines | undefined
  /** True while Ollama itself can't go over the grant: the cap sent with the run is within it. */
  let capped = false
  /** So many more lines are within that cap: each is a token at least, and the last one is none. */
  let cappedLines = Number.POSITIVE_INFINITY
  let firstTokenMs: number | null = null
  let deliveredTokens = 0
  /** Of those, what the windows were told: never more than the grant, though our count may be. */
  let inWindows = 0
  let outOfRoom = false
  let checkpointTokens = 0
  let checkpointAt = startedAt
  let ending: Promise<Finished> | undefined
  /** The end of the last run, held back until the row is closed. */
  let lastReason: string | undefined

  // ---- towards the client

  let out: TransformStreamDefaultController<Uint8Array> | undefined
  let lastWriteAt = startedAt
  const write = (text: string) => {
    if (text === '' || out === undefined) return
    lastWriteAt = steady()
    out.enqueue(encoder.encode(text))
  }

  // ---- towards Ollama

  /** In line for Ollama, then the row: it is committed before anything is sent. */
  const open = async () => {
    const turn = deps.queue.enter(ticket.userNumber, abort.signal)
    if (turn === undefined) {
      const retryAfter = String(deps.queue.retryAfterS())
      throw new ApiError(
        'overloaded',
        'All places in line for the model server are taken. Please try again.',
        {
          headers: { 'retry-after': retryAfter },
        },
      )
    }
    const asked = steady()
    place = await turn
    queueMs = Math.round(steady() - asked)
    if (ending !== undefined) {
      place.leave()
      throw leftEarly()
    }
    opened = true
    try {
      await ledger.open({
        id: ticket.id,
        userNumber: ticket.userNumber,
        keyId: ticket.keyId,
        modelId: ticket.modelId,
        kind: job.kind,
        admittedAfterMs: ticket.admittedAfterMs,
        queueMs,
        price: ticket.price,
        promptPromised: ticket.promptPromised,
        completionPromised: hold.granted,
        promptCounted: job.runs[0]?.promptExpected ?? 0,
        preview: job.preview,
      })
    } catch (cause) {
      opened = false
      throw storageFault(cause)
    }
  }

  /** What the run may generate: never more than the user has left, nor the client's own maximum. */
  const requestOf = (run: Run) => {
    if (job.kind === 'embedding') {
      capped = true
      return run.request
    }
    deliveredTokens = meter.completionDue
    const left = hold.room - deliveredTokens
    const most = Math.min(job.maxTokens ?? Number.POSITIVE_INFINITY, left)
    capped = most <= hold.granted - deliveredTokens
    cappedLines = most + 1
    if (most === Number.POSITIVE_INFINITY) return run.request
    const options = 'options' in run.request ? run.request.options : undefined
    return { ...run.request, options: { ...options, num_predict: Math.max(1, most) } }
  }

  const send = async (index: number): Promise<Lines> => {
    const run = job.runs[index] as Run
    const body = JSON.stringify(requestOf(run))
    meter.sent()
    enter('status')
    const answer = await deps.upstream.generate(job.path, body, abort.signal).catch(error => {
      if (!abort.signal.aborted) meter.refused()
      throw error
    })
    if (!answer.ok) {
      meter.refused()
      throw job.toFault(answer.status, answer.text)
    }
    enter('upstream')
    return createLines(answer.reader, job.path)
  }

  const takeOff = async () => {
    await open()
    if (ending !== undefined) throw leftEarly()
    return send(0)
  }

  /** The next read of all runs in turn; total, as a run's lines are. */
  const next = async (): Promise<Read> => {
    if (phase === 'client') enter('upstream')
    try {
      for (;;) {
        lines ??= await send(runIndex)
        const read = await lines.next()
        if (!('ended' in read) || runIndex === job.runs.length - 1) return read
        runIndex++
        lines = undefined
        if (hold.room - meter.completionDue < 1) {
          outOfRoom = true
          return { ended: true }
        }
      }
    } catch (error) {
      return { broken: toApiError(error) }
    } finally {
      if (phase === 'upstream') enter('client')
    }
  }

  // ---- delivery, under the grant

  const checkpoint = () => {
    checkpointTokens = meter.counted
    checkpointAt = steady()
    ledger.checkpoint({
      id: ticket.id,
      promptCounted: meter.promptDue,
      completionCounted: meter.counted,
      atMs: sinceArrival(),
    })
  }

  const hand = (read: Line[], tokens: number) => {
    firstTokenMs ??= sinceArrival()
    // The prompts of later runs are not read yet: all stay reserved until the last run's first line.
    if (runIndex === job.runs.length - 1) windows.promptDelivered(hold, steady())
    let text = ''
    for (const line of read) {
      text += writer.line(runIndex, line)
      if (line.done !== true && line.embeddings === undefined) continue
      if (runIndex === job.runs.length - 1) lastReason = line.done_reason
      else text += writer.endRun(runIndex, line.done_reason)
    }
    deliveredTokens += tokens
    if (job.stream) windows.delivered(hold, Math.min(tokens, hold.granted - inWindows), steady())
    inWindows = Math.min(inWindows + tokens, hold.granted)
    if (meter.counted - checkpointTokens >= CHECKPOINT_TOKENS) checkpoint()
    write(text)
  }

  /** The grant is used up: ask for more, deliver what fits, or stop Ollama and end with `length`. */
  const handUnderGrant = async (read: Line[], worth: number[], tokens: number) => {
    // One token is kept back for the end token, which Ollama counts and never shows.
    const short = deliveredTokens + tokens + 1 - hold.granted
    const gained = windows.extend(hold, ticket.limits(), 1, Math.max(short, GRANT_STEP), steady())
    if (gained > 0) {
      try {
        await ledger.grant(ticket.id, hold.granted)
      } catch (cause) {
        await finish({ outcome: 'failed', error: storageFault(cause) })
        return
      }
      if (ending !== undefined) return
    }
    if (gained >= short) {
      hand(read, tokens)
      return
    }
    let fitting = 0
    let fittingTokens = 0
    for (const lineTokens of worth) {
      if (deliveredTokens + fittingTokens + lineTokens + 1 > hold.granted) break
      fittingTokens += lineTokens
      fitting++
    }
    meter.discard(tokens - fittingTokens)
    hand(read.slice(0, fitting), fittingTokens)
    await finish({ outcome: 'completed', cut: true })
  }

  const deliver = (read: Line[]): void | Promise<void> => {
    if (ending !== undefined) return
    let tokens = 0
    const worth = read.map(line => {
      const lineTokens = meter.note(line)
      tokens += lineTokens
      return lineTokens
    })
    cappedLines -= read.length
    // Past it the model does not keep to the cap, or thinks in a run of its own, which `format` makes of it.
    if (cappedLines < 0) capped = false
    if (capped || deliveredTokens + tokens + 1 <= hold.granted) return hand(read, tokens)
    return handUnderGrant(read, worth, tokens)
  }

  /** A fault of ours while delivering must still close the row. */
  const deliverGuarded = (read: Line[]): void | Promise<void> => {
    const onFault = (error: unknown) => stop(toApiError(error), 'failed')
    try {
      return deliver(read)?.catch(onFault)
    } catch (error) {
      return onFault(error)
    }
  }

  // ---- the end

  const settle = async (end: Ending): Promise<Finished> => {
    forgetTick()
    place?.leave()
    const error = 'error' in end ? end.error : undefined
    if (end.outcome !== 'completed' || end.cut) abort.abort(error ?? leftEarly())
    const cost = meter.cost()
    const durationMs = sinceArrival()
    const report = (outcome: Outcome | undefined, fault: ApiError | undefined) =>
      deps.observe({
        id: ticket.id,
        userId: ticket.userId,
        keyId: ticket.keyId,
        model: job.model,
        kind: job.kind,
        outcome,
        cost,
        durationMs,
        error: fault,
      })
    if (!opened) {
      windows.withdraw(hold)
      report(undefined, error)
      return { text: '', error, cost }
    }
    windows.settle(hold, { prompt: cost.promptTokens, completion: cost.completionTokens }, steady())
    if (end.outcome === 'completed') meter.learn()
    const row: Closing = {
      id: ticket.id,
      userNumber: ticket.userNumber,
      keyId: ticket.keyId,
      modelId: ticket.modelId,
      kind: job.kind,
      outcome: end.outcome,
      basis: cost.basis,
      promptTokens: cost.promptTokens,
      completionTokens: cost.completionTokens,
      price: ticket.price,
      admittedAfterMs: ticket.admittedAfterMs,
      queueMs,
      firstTokenMs,
      durationMs,
      ...meter.durations(),
    }
    try {
      await ledger.close(row)
    } catch (cause) {
      const fault = storageFault(cause)
      report(end.outcome, fault)
      return { text: '', error: error ?? fault, cost }
    }
    report(end.outcome, error)
    if (end.outcome !== 'completed') return { text: '', error: error ?? leftEarly(), cost }
    const usage = {
      prompt_tokens: cost.promptTokens,
      completion_tokens: cost.completionTokens,
      total_tokens: cost.promptTokens + cost.completionTokens,
      completion_tokens_details: { reasoning_tokens: cost.reasoningTokens },
    }
    return {
      text: writer.endRun(runIndex, end.cut ? 'length' : lastReason) + writer.end(usage),
      error: undefined,
      cost,
    }
  }

  const settleAndSay = async (end: Ending): Promise<Finished> => {
    // Yields first: settling aborts Ollama, and what that sets off must already find this flight ending.
    await undefined
    const finished = await settle(end)
    write(finished.error === undefined ? finished.text : writer.fail(finished.error.body))
    out?.terminate()
    return finished
  }

  const finish = (end: Ending): Promise<Finished> => {
    ending ??= settleAndSay(end)
    return ending
  }

  const toEnding = (read: Exclude<Read, { lines: Line[] }>): Ending =>
    'broken' in read ? { outcome: 'failed', error: read.broken } : { outcome: 'completed', cut: outOfRoom }

  /** The client is gone: nobody is told, Ollama stops, the row is closed. */
  const cancel = async () => {
    out = undefined
    await finish({ outcome: 'cancelled' })
  }

  /** Ended from outside: a deleted user, the shutdown's deadline. A stream ends with this error as its last chunk. */
  const stop = async (error: ApiError, outcome: 'failed' | 'cancelled') => {
    await finish({ outcome, error })
  }

  // ---- deadlines

  let commit: (() => void) | undefined
  const forgetTick = deps.ticker.add(() => {
    const at = steady()
    const waited = at - phaseSince
    if (meter.counted > checkpointTokens && at - checkpointAt >= CHECKPOINT_MS) checkpoint()
    if (phase === 'status' && waited >= deps.timeouts.firstByteMs) {
      void stop(
        new ApiError('upstream_timeout', 'The model server did not begin to answer in time.'),
        'failed',
      )
    } else if (phase === 'upstream' && waited >= deps.timeouts.upstreamIdleMs) {
      void stop(
        new ApiError('upstream_timeout', 'The model server fell silent in the middle of the answer.'),
        'failed',
      )
    } else if (phase === 'client' && job.stream && waited >= deps.timeouts.clientStallMs) {
      out?.error(new Error('the client stopped reading'))
      void cancel()
    } else if (commit !== undefined && at - startedAt >= PATIENCE_MS) {
      commit()
    } else if (out !== undefined && phase !== 'client' && at - lastWriteAt >= KEEP_ALIVE_MS) {
      write(KEEP_ALIVE)
    }
  })

  // ---- the two ways of answering

  /** The whole answer's body. @throws ApiError */
  const collect = async (): Promise<string> => {
    try {
      lines = await takeOff()
    } catch (error) {
      await finish({ outcome: 'failed', error: toApiError(error) })
    }
    while (ending === undefined) {
      const read = await next()
      if ('lines' in read) await deliverGuarded(read.lines)
      else await finish(toEnding(read))
    }
    const finished = await ending
    if (finished.error === undefined) return finished.text
    throw toAnswer(finished, finished.error)
  }

  /**
   * The answer as SSE bytes, once Ollama's status is known or eight seconds have passed.
   * @throws ApiError while a real status can still be given.
   */
  const stream = async (): Promise<ReadableStream<Uint8Array>> => {
    const airborne = takeOff()
    const late = new Promise<'late'>(resolve => {
      commit = () => resolve('late')
    })
    const first = await Promise.race([airborne.then(() => 'airborne' as const), late]).catch(async error => {
      const fault = toApiError(error)
      const finished = await finish({ outcome: 'failed', error: fault })
      throw toAnswer(finished, finished.error ?? fault)
    })
    commit = undefined
    const source = new ReadableStream<Line[]>(
      {
        async pull(controller) {
          const read = await airborne.then(
            started => {
              if (runIndex === 0 && lines === undefined) lines = started
              return next()
            },
            error => ({ broken: toApiError(error) }),
          )
          if ('lines' in read) {
            controller.enqueue(read.lines)
            return
          }
          last = toEnding(read)
          controller.close()
        },
      },
      { highWaterMark: 0 },
    )
    let last: Ending = { outcome: 'cancelled' }
    const transformer: Transformer<Line[], Uint8Array> & { cancel: () => Promise<void> } = {
      start(controller) {
        out = controller
        if (first === 'late') write(KEEP_ALIVE)
      },
      transform: deliverGuarded,
      async flush() {
        await finish(last)
      },
      cancel,
    }
    return source.pipeThrough(new TransformStream(transformer))
  }

  return { collect, stream, cancel, stop }
}
export type Flight = ReturnType<typeof createFlight>

const toApiError = (error: unknown): ApiError =>
  error instanceof ApiError
    ? error
    : new ApiError('internal', 'The server failed to answer this request.', { cause: error })

const storageFault = (cause: unknown) =>
  new ApiError(
    'storage_full',
    'The usage record could not be written, so the request was not run. Please try again later.',
    {
      cause,
      headers: { 'retry-after': '5' },
    },
  )

/** What was charged, if only for its prompt, an SDK must not repeat by itself. */
const toAnswer = ({ cost }: Finished, error: ApiError) => {
  if (cost.promptTokens + cost.completionTokens > 0) error.headers['x-should-retry'] = 'false'
  return error
}
