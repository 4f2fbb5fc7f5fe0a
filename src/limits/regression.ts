/**
 * Linear regression that learns one observation at a time: a Kalman filter over the weights of y ≈ Σ weight·x.
 *
 * It starts from a prior (mean and standard deviation of each weight), so that it answers sensibly before the first
 * observation, knows how unsure each answer is, and lets the weights drift, so that the distant past fades.
 *
 * An observation far outside what is believed is a surprise. A single one hardly moves the weights (a prompt cut at
 * the context, a count without its cached part); when surprises of one direction persist, the beliefs were wrong and
 * are opened up. Too high a count is believed sooner than too low a one: limits suffer from estimates that are too low.
 *
 * State is bounded: n weights and n(n+1)/2 covariances, held in units of the prior's standard deviations.
 */
export type Prior = { readonly mean: number; readonly sd: number }

export type Regression = {
  /** The current weights, none below zero. The same array for ever: hot loops may keep it. */
  readonly weights: Float64Array
  /** The expected value. */
  mean(x: Float64Array): number
  /** The variance of `mean(x)` that comes from not knowing the weights; without the observation's own noise. */
  variance(x: Float64Array): number
  /** Takes one observation; says how surprising it was and what came of it. */
  learn(x: Float64Array, y: number, noiseVariance: number): 'expected' | 'doubted' | 'believed'
  /** Whole numbers for `createRegression`: short as JSON, and the same state again to 1e-4 of the prior's spread. */
  toNumbers(): number[]
}

/** Standard deviations beyond which an observation is a surprise. */
const SURPRISE = 3.5
/** Surprises in a row until they are believed. */
const BELIEVED_ABOVE = 2
const BELIEVED_BELOW = 8
/** What a believed surprise adds to every variance, which never passes the prior's own: 1. */
const REOPENED = 0.3
/** Drift of the weights per observation: a variance of 1e-4 means 1 % of the prior's spread. */
const DRIFT = 1e-4
/** Resolution of the saved numbers. */
const SCALE = 1e4

export const createRegression = (priors: readonly Prior[], saved?: readonly number[]): Regression => {
  const size = priors.length
  const weights = Float64Array.from(priors, prior => prior.mean)
  /** Weights as deviations from the prior, in units of its spread. */
  const deviations = new Float64Array(size)
  const covariance = new Float64Array(size * size)
  const scaled = new Float64Array(size)
  const gain = new Float64Array(size)
  /** Surprises in a row: above zero too high, below zero too low. */
  let streak = 0

  const applyDeviations = () => {
    for (const [k, prior] of priors.entries()) {
      const weight = prior.mean + prior.sd * (deviations[k] ?? 0)
      weights[k] = Math.max(0, weight)
      if (weight < 0) deviations[k] = -prior.mean / prior.sd
    }
  }

  /** Never shrinks a variance, so that the covariance stays positive definite. */
  const widen = (by: number) => {
    for (let k = 0; k < size; k++) {
      const at = k * size + k
      const current = covariance[at] ?? 0
      if (current < 1) covariance[at] = Math.min(1, current + by)
    }
  }

  /** Leaves covariance·x in `gain` and returns xᵀ·covariance·x. Zeros, most of a prompt's features, cost nothing. */
  const project = (x: Float64Array): number => {
    gain.fill(0)
    for (let k = 0; k < size; k++) {
      const value = (x[k] ?? 0) * (priors[k]?.sd ?? 0)
      scaled[k] = value
      if (value === 0) continue
      const row = k * size
      for (let j = 0; j < size; j++) gain[j] = (gain[j] ?? 0) + value * (covariance[row + j] ?? 0)
    }
    let sum = 0
    for (let k = 0; k < size; k++) sum += (scaled[k] ?? 0) * (gain[k] ?? 0)
    return Math.max(0, sum)
  }

  const mean = (x: Float64Array): number => {
    let sum = 0
    for (let k = 0; k < size; k++) sum += (x[k] ?? 0) * (weights[k] ?? 0)
    return sum
  }

  const restore = (numbers: readonly number[]): boolean => {
    if (numbers.length !== 1 + size + (size * (size + 1)) / 2 || !numbers.every(Number.isSafeInteger))
      return false
    let next = 0
    const read = () => (numbers[next++] ?? 0) / SCALE
    streak = Math.round(read() * SCALE)
    for (let k = 0; k < size; k++) deviations[k] = read()
    for (let k = 0; k < size; k++) {
      for (let j = 0; j <= k; j++) covariance[k * size + j] = covariance[j * size + k] = read()
    }
    // Rounding can make a nearly singular matrix indefinite; its error is below size/2 units of the resolution.
    for (let k = 0; k < size; k++)
      covariance[k * size + k] = (covariance[k * size + k] ?? 0) + size / 2 / SCALE
    applyDeviations()
    return true
  }

  if (saved === undefined || !restore(saved)) widen(1)

  return {
    weights,
    mean,
    variance: project,
    learn(x, y, noiseVariance) {
      const error = y - mean(x)
      let noise = noiseVariance
      let known = project(x)
      let verdict: 'expected' | 'doubted' | 'believed' = 'expected'
      if (error * error > SURPRISE * SURPRISE * (known + noise)) {
        const direction = Math.sign(error)
        streak = Math.sign(streak) === direction ? streak + direction : direction
        if (streak >= BELIEVED_ABOVE || streak <= -BELIEVED_BELOW) {
          verdict = 'believed'
          widen(REOPENED)
          known = project(x)
        } else {
          verdict = 'doubted'
          // As if it were so noisy that it is just not surprising: the further out, the less it moves.
          noise = (error * error) / (SURPRISE * SURPRISE) - known
        }
      } else {
        streak = 0
      }
      const total = known + noise
      if (!(total > 0) || !Number.isFinite(total)) return verdict
      for (let k = 0; k < size; k++) deviations[k] = (deviations[k] ?? 0) + ((gain[k] ?? 0) * error) / total
      for (let k = 0; k < size; k++) {
        const factor = (gain[k] ?? 0) / total
        if (factor === 0) continue
        const row = k * size
        for (let j = 0; j < size; j++)
          covariance[row + j] = (covariance[row + j] ?? 0) - factor * (gain[j] ?? 0)
      }
      widen(DRIFT)
      applyDeviations()
      return verdict
    },
    toNumbers() {
      const numbers = [streak]
      for (let k = 0; k < size; k++) numbers.push(Math.round((deviations[k] ?? 0) * SCALE))
      for (let k = 0; k < size; k++) {
        for (let j = 0; j <= k; j++) numbers.push(Math.round((covariance[k * size + j] ?? 0) * SCALE))
      }
      return numbers
    },
  }
}
