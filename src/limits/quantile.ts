/** A quantile of the last few values: forgets by itself, and needs no more memory than those values. */
export type RunningQuantile = {
  readonly count: number
  add(value: number): void
  /**
   * The value that a further one of the same kind will not pass with probability `share`: the ⌈share·(n+1)⌉-th
   * smallest (conformal prediction), at most the largest. Undefined when there is none yet.
   */
  at(share: number): number | undefined
  clear(): void
  /** Oldest first; `saved` for the next life. */
  values(): number[]
}

export const createRunningQuantile = (size: number, saved: readonly number[] = []): RunningQuantile => {
  let recent: number[] = []
  let sorted: number[] = []

  /** Where `value` belongs: before the first that is not below it. */
  const placeOf = (value: number): number => {
    let low = 0
    let high = sorted.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((sorted[middle] ?? 0) < value) low = middle + 1
      else high = middle
    }
    return low
  }

  const add = (value: number) => {
    if (!Number.isFinite(value)) return
    const oldest = recent.length >= size ? recent.shift() : undefined
    if (oldest !== undefined) sorted.splice(placeOf(oldest), 1)
    recent.push(value)
    sorted.splice(placeOf(value), 0, value)
  }

  for (const value of saved) add(value)

  return {
    add,
    at: share => sorted[Math.min(sorted.length, Math.ceil(share * (sorted.length + 1))) - 1],
    clear() {
      recent = []
      sorted = []
    },
    values: () => [...recent],
    get count() {
      return recent.length
    },
  }
}
