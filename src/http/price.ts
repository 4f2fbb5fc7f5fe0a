/** Prices as our API writes them: per million tokens, in the currency's unit. */
import { z } from 'zod'
import { type PriceFault, toPerMillion, toTokenPrice } from '../pricing.ts'
import type { Price } from '../store/store.ts'
import { toIso } from './query.ts'

const faults: Record<PriceFault, string> = {
  not_a_number: 'expected a number',
  negative: 'expected 0 or more',
  too_large: 'expected at most 1000000',
  too_precise: 'expected at most six decimals',
}

/** A price per million tokens, as the whole 10^-12 units a token that rows are reckoned with. */
export const perMillion = z.number().transform((amount, context) => {
  const price = toTokenPrice(amount)
  if (typeof price === 'number') return price
  context.addIssue({ code: 'custom', message: faults[price] })
  return z.NEVER
})

export const toPriceBody = ({ model, inputPrice, outputPrice, createdAt, updatedAt }: Price) => ({
  model,
  input_cost_per_million: toPerMillion(inputPrice),
  output_cost_per_million: toPerMillion(outputPrice),
  created_at: toIso(createdAt),
  updated_at: toIso(updatedAt),
})
