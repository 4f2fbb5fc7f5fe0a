/** Durations in microseconds, kept as counts in buckets about 1.1 % wide: a million of them cost no more than ten. */

const BUCKETS_PER_DOUBLING = 64
/** Up to 2^40 µs, twelve days. */
const BUCKETS = 40 * BUCKETS_PER_DOUBLING

export type Spread = { count: number; p50: number; p90: number; p99: number; max: number }

export const createHistogram = () => {
  const counts = new Uint32Array(BUCKETS)
  let count = 0
  let max = 0

  /** The smallest duration that at least the share `of` (0 to 1) of all do not exceed; 0 when there is none. */
  const quantile = (of: number): number => {
    if (count === 0) return 0
    let left = Math.max(1, Math.ceil(of * count))
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      left -= counts[bucket] ?? 0
      if (left <= 0) return Math.min(max, 2 ** ((bucket + 0.5) / BUCKETS_PER_DOUBLING) - 1)
    }
    return max
  }

  return {
    /** Below zero, as clocks of two processes may say, counts as zero. */
    add(us: number) {
      const duration = Math.max(0, us)
      const bucket = Math.min(BUCKETS - 1, Math.floor(Math.log2(duration + 1) * BUCKETS_PER_DOUBLING))
      counts[bucket] = (counts[bucket] ?? 0) + 1
      count++
      if (duration > max) max = duration
    },
    quantile,
    /** In milliseconds. */
    spread(): Spread {
      const ms = (us: number) => us / 1000
      return { count, p50: ms(quantile(0.5)), p90: ms(quantile(0.9)), p99: ms(quantile(0.99)), max: ms(max) }
    },
  }
}
export type Histogram = ReturnType<typeof createHistogram>
