/**
 * Requests that a token limit refused, sent again: SDKs retry with the very same bytes. What such a request needs is
 * known already; only the windows must be asked anew.
 */
import type { Forecast } from '../limits/forecast.ts'
import type { Caller } from '../principals.ts'

/** A body that was read before the app saw the request, and what tells it apart from others. */
export type EarlyBody = { bytes: Uint8Array; digest: string }

/** What is kept of a refused request: nothing that was said in it. */
export type Repeat = {
  path: string
  digest: string
  /** As things are learnt when it is asked; undefined when these need more than the request's measures to tell. */
  forecast: () => Forecast | undefined
}

/** What Ollama says of a model is believed so long; a request that waits longer is looked at anew now and then. */
const REMEMBERED_MS = 60_000

/** Requests of one key that wait for room at the same time. */
const REPEATS_A_CALLER = 8

export class Repeats {
  /** By digest. Gone with the caller, that is with any change to keys, models or users. */
  readonly #byCaller = new WeakMap<Caller, Map<string, Repeat & { untilMs: number }>>()

  /** Whether the caller was refused lately, so that it pays to tell its bodies apart. */
  expects(caller: Caller): boolean {
    return this.#byCaller.has(caller)
  }

  /** The forecast for a request whose like was refused before; undefined for any other. */
  forecastOf(caller: Caller, path: string, digest: string, nowMs: number): Forecast | undefined {
    const repeat = this.#byCaller.get(caller)?.get(digest)
    return repeat?.path === path && nowMs < repeat.untilMs ? repeat.forecast() : undefined
  }

  /** A token limit refused the caller: this request, where its body was read early, else one nobody can tell again. */
  refused(caller: Caller, repeat: Repeat | undefined, nowMs: number) {
    const known = this.#byCaller.get(caller) ?? new Map<string, Repeat & { untilMs: number }>()
    this.#byCaller.set(caller, known)
    if (repeat === undefined) return
    known.delete(repeat.digest)
    const oldest = known.keys().next().value
    if (known.size >= REPEATS_A_CALLER && oldest !== undefined) known.delete(oldest)
    known.set(repeat.digest, { ...repeat, untilMs: nowMs + REMEMBERED_MS })
  }

  /** The caller has room again. */
  admitted(caller: Caller) {
    this.#byCaller.delete(caller)
  }
}
