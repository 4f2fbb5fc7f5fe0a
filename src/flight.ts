/**
 * One admitted completion, from its place in line to its closed row. The story, top to bottom:
 * take a place → open the row → send a run → deliver its lines under the grant → close the row → say so.
 *
 * `finish` runs once, whatever comes first: the last line, a cut grant, a fault, a client that left, a deadline, a
 * deleted user. It settles the hold, closes the row and only then lets the client read the end.
 */
import { ApiError } from './errors.ts'
import { type Covered, createGrant } from './grant.ts'
import type { Hold, Limits, WindowStore } from './limits/admission.ts'
import type { ModelLearnt } from './limits/learnt.ts'
import { type Cost, createMeter, type MeteredRun } from './meter.ts'
import { createRow } from './row.ts'
import type { Kind, Ledger, Outcome, TokenPrice } from './store/ledger.ts'
import type { Ticker } from './ticker.ts'
import { brokeOff, createLines, type Lines } from './upstream/lines.ts'
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

/** What the flight waits for: its place in line, Ollama's status, Ollama's next line, or the client. */
type Phase = 'line' | 'status' | 'upstream' | 'client'

/** A stream waits this long for Ollama's status, so that errors are real statuses; then it commits to 200. */
const PATIENCE_MS = 8000
/** Clients and proxies give up on silence; a comment this often keeps them (openai-api.md §2.5). */
const KEEP_ALIVE_MS = 10_000

/** How long a body may stay open after the last line of its run. */
const READ_OUT_MS = 5000

const encoder = new TextEncoder()

/** Nobody reads it: it ends the work of a client that is gone. */
export const leftEarly = () => new ApiError('client_left', 'The client left before the answer was complete.')

const toApiError = (error: unknown): ApiError =>
  error instanceof ApiError
    ? error
    : new ApiError('internal', 'The server failed to answer this request.', { cause: error })

/** What was charged, if only for its prompt, an SDK must not repeat by itself. */
const toAnswer = ({ cost }: Finished, error: ApiError) => {
  if (cost.promptTokens + cost.completionTokens > 0) error.headers['x-should-retry'] = 'false'
  return error
}

export const createFlight = (deps: FlightDeps, job: Job, ticket: Ticket, learnt: ModelLearnt) => {
  const { windows, steady, timeouts } = deps
  const { hold } = ticket
  const { writer } = job
  const meter = createMeter(job.runs, learnt)
  const grant = createGrant({ ...deps, meter }, ticket)
  const row = createRow({ ...deps, meter }, job, ticket)
  const abort = new AbortController()
  const startedAt = steady()

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
  let lines: Lines
  /** How Ollama ended the last run; its finish chunk is held back until the row is closed. */
  let lastReason: string | undefined
  let lastText = ''
  let ending: Promise<Finished> | undefined
  const isLastRun = () => runIndex === job.runs.length - 1

  // ---- towards the client

  let out: TransformStreamDefaultController<Uint8Array> | undefined
  let lastWriteAt = startedAt
  const write = (text: string) => {
    if (text === '' || out === undefined) return
    lastWriteAt = steady()
    out.enqueue(encoder.encode(text))
  }

  /** Resolves when a stream's status is decided: Ollama has answered, eight seconds have passed, or it is over. */
  const status = Promise.withResolvers<void>()

  // ---- towards Ollama

  /** In line for Ollama, then the row: it is committed before anything is sent. */
  const open = async () => {
    const turn = deps.queue.enter(ticket.userNumber, abort.signal)
    if (turn === undefined) {
      throw new ApiError(
        'overloaded',
        'All places in line for the model server are taken. Please try again.',
        {
          headers: { 'retry-after': String(deps.queue.retryAfterS()) },
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
    await row.open(queueMs).catch(error => {
      opened = false
      throw error
    })
    if (ending !== undefined) throw leftEarly()
  }

  const send = async (run: Run): Promise<ReadableStream<Uint8Array>> => {
    const body = JSON.stringify(grant.capRequest(run.request, job.maxTokens))
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
    status.resolve()
    return answer.body
  }

  /**
   * After a whole answer the rest of its body is read, so that the connection can serve the next request; a body that
   * stays open is let go.
   */
  const readOut = (body: ReadableStream<Uint8Array>) => {
    const doneAt = steady()
    const forget = deps.ticker.add(() => {
      if (steady() - doneAt >= READ_OUT_MS) abort.abort(leftEarly())
    })
    const rest = async () => {
      const reader = body.getReader()
      while (!(await reader.read()).done);
    }
    void rest().then(forget, forget)
  }

  /** All runs in turn. Never rejects: whatever goes wrong becomes an ending. */
  const fly = async (pass: (body: ReadableStream<Uint8Array>) => Promise<void>) => {
    try {
      await open()
      for (const [index, run] of job.runs.entries()) {
        runIndex = index
        lines = createLines(job.path)
        if (index > 0) row.beforeRun()
        const body = await send(run)
        const death = await pass(body).then(() => undefined, brokeOff)
        if (ending === undefined && death !== undefined) throw death
        if (ending === undefined) await deliver(lines.end())
        if (ending !== undefined) {
          if (lines.done && !abort.signal.aborted) readOut(body)
          return
        }
        if (!isLastRun() && grant.isSpent) {
          void finish({ outcome: 'completed', cut: true })
          return
        }
      }
    } catch (error) {
      void finish({ outcome: 'failed', error: toApiError(error) })
    }
  }

  // ---- delivery

  /** Nothing comes after these lines: their text leaves together with the end, when the row is closed. */
  const isEnd = (cut: boolean) => cut || (lines.done && isLastRun())

  const hand = ({ lines: covered, tokens, cut }: Covered): undefined | Promise<unknown> => {
    if (ending !== undefined) return
    let text = ''
    if (covered.length > 0) {
      // The prompts of later runs are not read yet: all stay reserved until the last run's first line.
      if (isLastRun()) windows.promptDelivered(hold, steady())
      grant.deliver(tokens, job.stream)
      row.noteFirstToken()
      text = toText(covered)
    }
    if (isEnd(cut)) {
      lastText = text
      return finish({ outcome: 'completed', cut })
    }
    write(text)
    return lines.fault === undefined ? undefined : finish({ outcome: 'failed', error: lines.fault })
  }

  const toText = (covered: Line[]): string => {
    let text = ''
    for (const line of covered) {
      text += writer.line(runIndex, line)
      if (line.done !== true) continue
      if (isLastRun()) lastReason = line.done_reason
      else text += writer.endRun(runIndex, line.done_reason)
    }
    return text
  }

  const checkpointed = (covered: Covered): undefined | Promise<unknown> => {
    const committed = job.stream && !isEnd(covered.cut) ? row.beforeDelivery() : undefined
    return committed === undefined ? hand(covered) : committed.then(() => hand(covered))
  }

  const cover = (read: Line[]): undefined | Promise<unknown> => {
    if (ending !== undefined) return
    const covered = grant.cover(read)
    return covered instanceof Promise ? covered.then(checkpointed) : checkpointed(covered)
  }

  /** Lines that arrived together go out together. A fault of ours on the way must still close the row. */
  const deliver = (read: Line[]): void | Promise<void> => {
    const onFault = (error: unknown) => void finish({ outcome: 'failed', error: toApiError(error) })
    try {
      return cover(read)?.then(() => undefined, onFault)
    } catch (error) {
      return onFault(error)
    }
  }

  const receive = (bytes: Uint8Array): void | Promise<void> => {
    const delivered = deliver(lines.push(bytes))
    enter('upstream')
    return delivered
  }

  // ---- the end

  const settle = async (end: Ending): Promise<Finished> => {
    forgetTick()
    place?.leave()
    const error = 'error' in end ? end.error : undefined
    if (end.outcome !== 'completed' || end.cut) abort.abort(error ?? leftEarly())
    const cost = meter.cost()
    const { id, userId, keyId } = ticket
    const flown = {
      id,
      userId,
      keyId,
      model: job.model,
      kind: job.kind,
      cost,
      durationMs: row.sinceArrival(),
    }
    if (!opened) {
      windows.withdraw(hold)
      deps.observe({ ...flown, outcome: undefined, error })
      return { text: '', error: error ?? leftEarly(), cost }
    }
    windows.settle(hold, { prompt: cost.promptTokens, completion: cost.completionTokens }, steady())
    if (end.outcome === 'completed') meter.learn()
    const unwritten = await row.close(end.outcome, cost, queueMs).then(() => undefined, toApiError)
    const fault = error ?? unwritten
    deps.observe({ ...flown, outcome: end.outcome, error: fault })
    if (end.outcome !== 'completed' || fault !== undefined)
      return { text: '', error: fault ?? leftEarly(), cost }
    const usage = {
      prompt_tokens: cost.promptTokens,
      completion_tokens: cost.completionTokens,
      total_tokens: cost.promptTokens + cost.completionTokens,
      completion_tokens_details: { reasoning_tokens: cost.reasoningTokens },
    }
    const reason = end.cut ? 'length' : lastReason
    const text = lastText + writer.endRun(runIndex, reason) + writer.end(usage)
    return { text, error: undefined, cost }
  }

  const settleAndSay = async (end: Ending): Promise<Finished> => {
    // Yields first: settling aborts Ollama, and what that sets off must already find this flight ending.
    await undefined
    const finished = await settle(end).catch((cause): Finished => {
      // A fault of ours while settling: the client is told all the same, or it would wait for ever.
      return { text: '', error: toApiError(cause), cost: meter.cost() }
    })
    write(finished.error === undefined ? finished.text : writer.fail(finished.error.body))
    out?.terminate()
    status.resolve()
    return finished
  }

  const finish = (end: Ending): Promise<Finished> => {
    ending ??= settleAndSay(end)
    return ending
  }

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

  /** How long a stream may be quiet before a comment: until it has committed, the patience itself. */
  let quietMs = PATIENCE_MS
  const forgetTick = deps.ticker.add(() => {
    const at = steady()
    row.tick()
    // What a stream has written and nobody has taken: the client is waited for, and Ollama's own timer rests.
    const unread = out !== undefined && (out.desiredSize ?? 1) <= 0
    if (unread && phase === 'upstream') phase = 'client'
    else if (!unread && phase === 'client') enter('upstream')
    const waited = at - phaseSince
    if (phase === 'status' && waited >= timeouts.firstByteMs) {
      void stop(
        new ApiError('upstream_timeout', 'The model server did not begin to answer in time.'),
        'failed',
      )
    } else if (phase === 'upstream' && waited >= timeouts.upstreamIdleMs) {
      void stop(
        new ApiError('upstream_timeout', 'The model server fell silent in the middle of the answer.'),
        'failed',
      )
    } else if (phase === 'client' && waited >= timeouts.clientStallMs) {
      out?.error(new Error('the client stopped reading'))
      void cancel()
    } else if (
      job.stream &&
      at - startedAt >= PATIENCE_MS &&
      phase !== 'client' &&
      at - lastWriteAt >= quietMs
    ) {
      status.resolve()
      quietMs = KEEP_ALIVE_MS
      write(KEEP_ALIVE)
    }
  })
  // ---- the two ways of answering

  /** The whole answer's body. @throws ApiError */
  const collect = async (): Promise<string> => {
    await fly(async body => {
      const reader = body.getReader()
      for (let read = await reader.read(); !read.done && ending === undefined; read = await reader.read()) {
        await receive(read.value)
        if (ending !== undefined) break
      }
      reader.releaseLock()
    })
    // Every way out of `fly` has set an ending.
    const finished = await (ending ?? finish({ outcome: 'failed', error: brokeOff('no ending') }))
    if (finished.error === undefined) return finished.text
    throw toAnswer(finished, finished.error)
  }

  /**
   * The answer as SSE bytes, once Ollama's status is known or eight seconds have passed.
   * @throws ApiError while a real status can still be given.
   */
  const stream = async (): Promise<ReadableStream<Uint8Array>> => {
    const transformer: Transformer<Uint8Array, Uint8Array> & { cancel: () => Promise<void> } = {
      start(controller) {
        out = controller
      },
      transform: receive,
      cancel,
    }
    // One chunk may wait to be taken: that it does is how the deadlines know of a client that has stopped reading.
    const { readable, writable } = new TransformStream(transformer, undefined, { highWaterMark: 1 })
    // The endings are ours to write: neither the end of a run nor Ollama's death may close or break what the client reads.
    const keepOpen = { preventClose: true, preventAbort: true, preventCancel: true }
    void fly(body => body.pipeTo(writable, keepOpen))
    await status.promise
    const finished = await ending
    if (finished?.error !== undefined) throw toAnswer(finished, finished.error)
    return readable
  }

  return { collect, stream, cancel, stop }
}
export type Flight = ReturnType<typeof createFlight>
