/**
 * The line in front of Ollama: at most `concurrency` requests run at once, the others wait, in turn by user, so that
 * one user's hundred requests delay another user's one by a single place.
 */
export interface Queue {
  /**
   * Resolves with a place when it is this request's turn; undefined when the line is full. Rejects with the signal's
   * reason when the caller leaves the line; leaving costs nothing.
   */
  enter(user: number, signal: AbortSignal): Promise<Place> | undefined
  /** Whole seconds until a place in line is likely, for `retry-after`. */
  retryAfterS(): number
  readonly waiting: number
}

/** Gives the place to the next in line; further calls do nothing. */
export type Place = { leave: () => void }

type Waiter = { start: () => void }

const RETRY_AFTER_MAX_S = 60

export const createQueue = (options: { concurrency: number; queueMax: number; now: () => number }): Queue => {
  let running = 0
  let waiting = 0
  /** Users with someone in line, in the order of their turns (a Map keeps insertion order). */
  const lines = new Map<number, Set<Waiter>>()
  /** Smoothed duration of a run, for an honest retry-after. */
  let runMs = 1000

  const place = (): Place => {
    running++
    const startedAt = options.now()
    let left = false
    return {
      leave() {
        if (left) return
        left = true
        running--
        runMs += (options.now() - startedAt - runMs) / 8
        callNext()
      },
    }
  }

  const callNext = () => {
    while (running < options.concurrency && lines.size > 0) {
      const [user, line] = lines.entries().next().value as [number, Set<Waiter>]
      const [waiter] = line as Set<Waiter> & Iterable<Waiter>
      lines.delete(user)
      if (waiter === undefined) continue
      line.delete(waiter)
      if (line.size > 0) lines.set(user, line)
      waiting--
      waiter.start()
    }
  }

  const join = (user: number, signal: AbortSignal) =>
    new Promise<Place>((resolve, reject) => {
      const waiter: Waiter = {
        start() {
          signal.removeEventListener('abort', quit)
          resolve(place())
        },
      }
      const quit = () => {
        const line = lines.get(user)
        if (line === undefined || !line.delete(waiter)) return
        if (line.size === 0) lines.delete(user)
        waiting--
        reject(signal.reason)
      }
      const line = lines.get(user) ?? new Set<Waiter>()
      line.add(waiter)
      lines.set(user, line)
      waiting++
      signal.addEventListener('abort', quit, { once: true })
    })

  return {
    enter(user, signal) {
      if (running < options.concurrency) return Promise.resolve(place())
      if (waiting >= options.queueMax) return undefined
      return join(user, signal)
    },
    retryAfterS() {
      const placeMs = (runMs * (waiting + 1)) / Math.max(1, Math.min(options.concurrency, running))
      return Math.min(RETRY_AFTER_MAX_S, Math.max(1, Math.ceil(placeMs / 1000)))
    },
    get waiting() {
      return waiting
    },
  }
}
