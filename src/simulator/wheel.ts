/**
 * One timer for many paced streams: a wheel of one-millisecond slots that turns only while something waits on it.
 * Adding and firing cost the same however many streams wait.
 */
const slots = 4096

type Entry = { dueMs: number; run: () => void }

export const createWheel = () => {
  const wheel: Entry[][] = Array.from({ length: slots }, () => [])
  let waiting = 0
  let at = 0
  let timer: ReturnType<typeof setInterval> | undefined
  const now = () => Math.floor(performance.now())

  const turn = () => {
    const until = now()
    while (at < until) {
      at++
      const slot = wheel[at % slots] ?? []
      if (slot.length === 0) continue
      const later = slot.filter(entry => entry.dueMs > at)
      wheel[at % slots] = later
      waiting -= slot.length - later.length
      for (const { dueMs, run } of slot) if (dueMs <= at) run()
    }
    if (waiting > 0) return
    clearInterval(timer)
    timer = undefined
  }

  const addAt = (dueMs: number, run: () => void) => {
    if (timer === undefined) {
      at = now()
      timer = setInterval(turn, 1)
    }
    const due = Math.max(Math.ceil(dueMs), at + 1)
    wheel[due % slots]?.push({ dueMs: due, run })
    waiting++
  }

  return {
    now,
    /** Runs once the clock of `now()` has passed `dueMs`. */
    addAt,
    after: (ms: number, run: () => void) => addAt(now() + ms, run),
    close() {
      clearInterval(timer)
      timer = undefined
      waiting = 0
      for (const slot of wheel) slot.length = 0
    },
  }
}

export type Wheel = ReturnType<typeof createWheel>
