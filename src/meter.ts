/**
 * What a request has cost so far, and on what basis the number stands.
 *
 * Ollama reports counts only on the last line of a run; until then, and where it never comes, the counts are ours.
 * Read before presentation: hiding usage from a client's view must not hide the bill.
 */

import type { PromptFeatures } from './limits/estimate.ts'
import type { CompletionCounter, ModelLearnt } from './limits/learnt.ts'
import type { Basis } from './store/ledger.ts'
import type { Line } from './wire/ollama.ts'

export type MeteredRun = {
  features: PromptFeatures
  /** Tokens reserved for this run's prompt. */
  promptEstimate: number
  /** What it most likely takes: its bill where Ollama gives no count. */
  promptExpected: number
  /** A `format` was asked for: a thinking model then may run twice and report only the second run. */
  constrained: boolean
  contextLength?: number | undefined
}

export type Cost = {
  promptTokens: number
  completionTokens: number
  /** Of the completion tokens, those spent on thinking, counted by us. */
  reasoningTokens: number
  basis: Basis
}

/** Microseconds, from Ollama's last lines, summed over the runs. */
export type Durations = { loadUs: number; promptEvalUs: number; evalUs: number }

type RunState = {
  counter: CompletionCounter
  /** Tokens of lines that were counted but not delivered, because a grant was refused. */
  discarded: number
  refused: boolean
  final: Line | undefined
}

/** Ollama has reported -9223372036854775808 ns; a run of more than a week is no duration either. */
const US_MAX = 7 * 24 * 3_600_000_000
const toMicroseconds = (nanoseconds: number | undefined): number =>
  typeof nanoseconds === 'number' && nanoseconds > 0 ? Math.min(US_MAX, Math.round(nanoseconds / 1000)) : 0

/** A count by Ollama: a whole number of 0 or more, else it says nothing. */
const toCount = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isFinite(value) && value >= 0
    ? Math.min(Math.floor(value), 0xffffffff)
    : undefined

/**
 * With `format` a thinking model runs twice and reports the second run only (captures: chat-think-format): then the
 * reported completion does not cover the thinking that was delivered.
 */
const thinkingUnreported = (run: MeteredRun, counter: CompletionCounter, reported: number): boolean =>
  run.constrained && counter.reasoning > 0 && reported < counter.count - counter.reasoning / 2

const costOfRun = (run: MeteredRun, state: RunState): Cost => {
  const delivered = Math.max(0, state.counter.count - state.discarded)
  const reasoningTokens = Math.min(state.counter.reasoning, delivered)
  if (state.refused) return { promptTokens: 0, completionTokens: 0, reasoningTokens: 0, basis: 'counted' }
  if (state.final === undefined || state.discarded > 0) {
    return {
      promptTokens: run.promptExpected,
      completionTokens: delivered,
      reasoningTokens,
      basis: 'counted',
    }
  }
  const prompt = toCount(state.final.prompt_eval_count)
  const completion = toCount(state.final.eval_count)
  if (completion !== undefined && thinkingUnreported(run, state.counter, completion)) {
    return {
      promptTokens: (prompt ?? 0) + run.promptExpected,
      completionTokens: completion + reasoningTokens,
      reasoningTokens,
      basis: 'counted',
    }
  }
  // A zero is missing, not 0: without text it is a real zero, with text it was never reported.
  const missing = prompt === undefined || (completion === undefined && delivered > 0)
  return {
    promptTokens: prompt ?? run.promptExpected,
    completionTokens: completion ?? delivered,
    reasoningTokens: Math.min(reasoningTokens, completion ?? delivered),
    basis: missing ? 'counted' : 'measured',
  }
}

export class Meter {
  readonly #runs: readonly MeteredRun[]
  readonly #learnt: ModelLearnt
  readonly #states: RunState[] = []
  /** The run that is being read. */
  #current: RunState | undefined
  #counted = 0
  /** How many tokens more than counted the current run's lines so far may hold. */
  doubt = 0

  constructor(runs: readonly MeteredRun[], learnt: ModelLearnt) {
    this.#runs = runs
    this.#learnt = learnt
  }

  /** The next run's request is being sent: from now on its prompt is due. */
  sent() {
    this.#current = { counter: this.#learnt.counter(), discarded: 0, refused: false, final: undefined }
    this.#states.push(this.#current)
    this.doubt = 0
  }

  /** The run just sent failed before Ollama worked: it costs nothing. */
  refused() {
    if (this.#current !== undefined) this.#current.refused = true
  }

  /** The completion tokens that this line of the current run is worth. */
  note(line: Line): number {
    const state = this.#current
    if (state === undefined) return 0
    const tokens = state.counter.note(line)
    this.#counted += tokens
    this.doubt = state.counter.doubt
    if (line.done === true || line.embeddings !== undefined) state.final = line
    return tokens
  }

  /** Lines noted but not delivered, because their tokens were over the grant. */
  discard(tokens: number) {
    if (this.#current !== undefined) this.#current.discarded += tokens
    this.#counted -= tokens
  }

  /** Completion tokens so far over all runs, by our count, less what was discarded. */
  get counted() {
    return this.#counted
  }

  /** All completion tokens, once Ollama has counted the current run; undefined while it has not. */
  get reported(): number | undefined {
    const run = this.#runs[this.#states.length - 1]
    const { final, counter } = this.#current ?? {}
    const count = toCount(final?.eval_count)
    if (run === undefined || counter === undefined || count === undefined) return undefined
    return thinkingUnreported(run, counter, count) ? undefined : this.completionDue
  }

  /** Completion tokens due so far: Ollama's count for runs that ended, ours for the others. */
  get completionDue() {
    let due = 0
    for (const { final, counter, discarded } of this.#states)
      due += toCount(final?.eval_count) ?? counter.count - discarded
    return due
  }

  /** Prompt tokens due so far, by estimate. */
  get promptDue() {
    let due = 0
    for (const [index, { refused }] of this.#states.entries())
      due += refused ? 0 : (this.#runs[index]?.promptExpected ?? 0)
    return due
  }

  cost(): Cost {
    const total: Cost = { promptTokens: 0, completionTokens: 0, reasoningTokens: 0, basis: 'measured' }
    for (const [index, state] of this.#states.entries()) {
      const run = this.#runs[index]
      if (run === undefined) continue
      const cost = costOfRun(run, state)
      total.promptTokens += cost.promptTokens
      total.completionTokens += cost.completionTokens
      total.reasoningTokens += cost.reasoningTokens
      if (cost.basis !== 'measured') total.basis = cost.basis
    }
    if (this.#states.length < this.#runs.length) total.basis = 'counted'
    return total
  }

  durations(): Durations {
    const sum: Durations = { loadUs: 0, promptEvalUs: 0, evalUs: 0 }
    for (const { final } of this.#states) {
      sum.loadUs += toMicroseconds(final?.load_duration)
      sum.promptEvalUs += toMicroseconds(final?.prompt_eval_duration)
      sum.evalUs += toMicroseconds(final?.eval_duration)
    }
    return sum
  }

  /** Hands what the finished runs showed to the model's estimates. */
  learn() {
    for (const [index, state] of this.#states.entries()) {
      const run = this.#runs[index]
      const { final } = state
      if (run === undefined || final === undefined) continue
      const completion = toCount(final.eval_count)
      const unreported = completion !== undefined && thinkingUnreported(run, state.counter, completion)
      if (unreported || state.discarded > 0) continue
      this.#learnt.learn({
        features: run.features,
        promptTokens: toCount(final.prompt_eval_count),
        contextLength: run.contextLength,
        completionTokens: completion,
        counter: state.counter,
        naturalEnd: final.done_reason === 'stop',
      })
    }
  }
}
