/**
 * Money: whole 10^-12 units of the currency all the way, a JSON number only in an answer.
 *
 * A price per million tokens of at most six decimals is a whole number of 10^-12 units a token, so a cost is an exact
 * product and a bill an exact sum. A cost is kept as `micro` (whole 10^-6 units) and `pico` (the rest, below
 * 1,000,000), as one 64-bit column could overflow in a sum.
 */
import type { TokenPrice } from './store/ledger.ts'

/** The most a million tokens may cost, in whole units of the currency. */
export const PRICE_PER_MILLION_MAX = 1_000_000
const PICO_PER_MICRO = 1_000_000
const PICO_PER_UNIT = 1_000_000_000_000

export type PriceFault = 'not_a_number' | 'negative' | 'too_large' | 'too_precise'

/**
 * A price per million tokens, as it came in JSON, in 10^-12 units a token; or why it is none. Goes by the number's
 * decimal text, as 0.1 has no exact double but an exact text.
 */
export const toTokenPrice = (perMillion: number): number | PriceFault => {
  if (!Number.isFinite(perMillion)) return 'not_a_number'
  if (perMillion < 0) return 'negative'
  if (perMillion > PRICE_PER_MILLION_MAX) return 'too_large'
  const text = String(perMillion)
  if (text.includes('e')) return 'too_precise' // below 10^-6; large exponents are excluded above
  const [whole = '0', decimals = ''] = text.split('.')
  return decimals.length > 6 ? 'too_precise' : Number(whole + decimals.padEnd(6, '0'))
}

/** The price per million tokens; the inverse of `toTokenPrice`. One division is correctly rounded, so exact. */
export const toPerMillion = (tokenPrice: number): number => tokenPrice / PICO_PER_MICRO

/** What so many tokens cost, exactly; BigInt where the product passes 2^53. */
export const costOf = (
  promptTokens: number,
  completionTokens: number,
  price: TokenPrice,
): { micro: number; pico: number } => {
  const cost = promptTokens * price.input + completionTokens * price.output
  if (cost <= Number.MAX_SAFE_INTEGER) {
    const pico = cost % PICO_PER_MICRO
    return { micro: (cost - pico) / PICO_PER_MICRO, pico }
  }
  const exact = BigInt(promptTokens) * BigInt(price.input) + BigInt(completionTokens) * BigInt(price.output)
  return {
    micro: Number(exact / BigInt(PICO_PER_MICRO)),
    pico: Number(exact % BigInt(PICO_PER_MICRO)),
  }
}

/** A sum of costs in units of the currency: the double nearest to it, which prints as the exact decimal where one can. */
export const toAmount = (micro: bigint | number, pico: bigint | number): number => {
  const total = BigInt(micro) * BigInt(PICO_PER_MICRO) + BigInt(pico)
  if (total <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(total) / PICO_PER_UNIT
  const digits = total.toString()
  return Number(`${digits.slice(0, -12)}.${digits.slice(-12)}`)
}
