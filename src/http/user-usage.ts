/** One user's usage: what a client may ask about itself, and the admin about anyone. */
import { z } from 'zod'
import { parseCompletionId } from '../ids.ts'
import type { HistoryQuery } from '../store/history.ts'
import type { Outcome } from '../store/ledger.ts'
import { toCanonicalModel } from '../wire/model-name.ts'
import { cursor, inOrder, outOfOrder, pageSize, rangeFields } from './query.ts'

export const rangeQuery = z.strictObject(rangeFields).refine(inOrder, outOfOrder)

/** A model in any of its spellings, as the canonical one that rows hold. */
export const modelFilter = z.string().min(1).transform(toCanonicalModel)

const outcomes = {
  completed: 'completed',
  failed: 'failed',
  cancelled: 'cancelled',
  recovered: 'recovered',
} as const satisfies { [Name in Outcome]: Name }

export const historyQuery = z.strictObject({
  limit: pageSize,
  after: cursor(parseCompletionId).exactOptional(),
  model: modelFilter.exactOptional(),
  outcome: z.enum(outcomes).exactOptional(),
}) satisfies z.ZodType<HistoryQuery>
