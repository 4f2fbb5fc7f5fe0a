/** USAGE_RETENTION_DAYS: rows become hourly sums before they go, a few at a time, and no total changes by it. */
import { sql } from 'drizzle-orm'
import { firstIdAt } from '../ids.ts'
import { atomically, type SyncDatabase } from './database.ts'
import { HOUR_MS } from './rollup.ts'
import { promptPreviews, usage, usageArchive } from './schema.ts'

/**
 * Moves at most `rowsMax` rows of whole hours before `beforeMs` into the archive, oldest first, in one transaction,
 * and returns how many. Call it again, with other work in between, until it returns 0: a hundred rows take about a
 * millisecond. A request that began before that instant and ended after it stays a row, as the windows may still
 * need it.
 */
export const retire = (db: SyncDatabase, beforeMs: number, rowsMax: number): number => {
  const beforeHourMs = Math.floor(beforeMs / HOUR_MS) * HOUR_MS
  const ended = sql`(${usage.id} >> 10) + ${usage.durationMs} < ${beforeHourMs}`
  return atomically(db, () => {
    const oldest = db
      .select({ id: usage.id })
      .from(usage)
      .where(sql`${usage.id} < ${firstIdAt(beforeHourMs)} and ${ended}`)
      .orderBy(usage.id)
      .limit(rowsMax)
      .all()
    const last = oldest.at(-1)
    if (last === undefined) return 0
    // One bound on the id: of two SQLite would use the first, and read all that is due at each step.
    const chosen = sql`${usage.id} <= ${last.id} and ${ended}`
    db.run(sql`
      insert into ${usageArchive}
        (hour, user_number, key_id, model_id, outcome,
         requests, prompt_tokens, completion_tokens, cost_micro, cost_pico, gpu_us)
      select (id >> 10) / ${sql.raw(String(HOUR_MS))}, user_number, key_id, model_id, outcome,
        count(*), sum(prompt_tokens), sum(completion_tokens), sum(cost_micro), sum(cost_pico),
        sum(prompt_eval_us + eval_us)
      from ${usage} where ${chosen} group by 1, 2, 3, 4, 5
      on conflict do update set
        requests = requests + excluded.requests,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        cost_micro = cost_micro + excluded.cost_micro,
        cost_pico = cost_pico + excluded.cost_pico,
        gpu_us = gpu_us + excluded.gpu_us`)
    db.run(sql`
      delete from ${promptPreviews} where ${promptPreviews.id} <= ${last.id}
        and exists (select 1 from ${usage} where ${usage.id} = ${promptPreviews.id} and ${chosen})`)
    db.run(sql`delete from ${usage} where ${chosen}`)
    return oldest.length
  })
}
