/**
 * One slow clock hand for every deadline of every request in flight. A timer per request, re-armed at each token, was
 * a visible cost per token; here a token only notes the time and the hand compares, four times a second.
 */
export interface Ticker {
  /** Calls `onTick` at each tick until the returned function is called. */
  add(onTick: () => void): () => void
  /** Called by the door every TICK_MS, by tests when they move the clock. */
  tick(): void
}

export const TICK_MS = 250

export const createTicker = (): Ticker => {
  const hands = new Set<() => void>()
  return {
    add(onTick) {
      hands.add(onTick)
      return () => {
        hands.delete(onTick)
      }
    },
    tick() {
      for (const onTick of hands) onTick()
    },
  }
}
