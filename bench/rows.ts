/** A ledger with a year behind it: rows spread evenly over time, unevenly over 1,000 users, and their roll-ups. */
import { Database } from 'bun:sqlite'

const USERS = 1000
const MODELS = 20
const YEAR_MS = 365 * 86_400_000

const sums = `count(*), sum(prompt_tokens), sum(completion_tokens), sum(cost_micro), sum(cost_pico), sum(prompt_eval_us + eval_us)`

/** Fills the migrated, empty database of a stopped proxy with `rows` closed requests that end at `nowMs`. */
export const fillLedger = (path: string, rows: number, nowMs: number): void => {
  const sqlite = new Database(path, { readwrite: true, strict: true })
  try {
    sqlite.run('pragma synchronous = off')
    sqlite.run('pragma cache_size = -200000')
    sqlite.transaction(() => {
      const count = (table: string, columns: string, values: string, upTo: number) =>
        sqlite.run(
          `with recursive n(i) as (select 1 union all select i + 1 from n where i < ${upTo}) insert into ${table} (${columns}) select ${values} from n`,
        )
      count('user_numbers', 'number', 'i', USERS)
      count('users', 'user_id, number, created_at', `'user' || i, i, ${nowMs - YEAR_MS}`, USERS)
      count('models', 'name', `'model' || i`, MODELS)
      // The product of two even shares: a few users have most of the rows.
      const user = `1 + (abs(random()) % ${USERS}) * (abs(random()) % ${USERS}) / ${USERS}`
      const start = `${nowMs - YEAR_MS} + cast(i * ${YEAR_MS / (rows + 1)} as integer)`
      const columns =
        'id, user_number, key_id, model_id, kind, outcome, basis, prompt_tokens, completion_tokens, cost_micro, cost_pico, admitted_after_ms, queue_ms, first_token_ms, duration_ms, load_us, prompt_eval_us, eval_us'
      const values = `(${start}) * 1024 + i % 1024, ${user}, 1, 1 + abs(random()) % ${MODELS}, 0, 0, 0, 20 + i % 2000, 10 + i % 500, i % 5000, 0, 1, 0, 300, 4000, 0, 100000, 3000000`
      count('usage', columns, values, rows)
      sqlite.run(`insert into usage_by_user select user_number, model_id, ${sums} from usage group by 1, 2`)
      sqlite.run(
        `insert into usage_by_hour select (id >> 10) / 3600000, model_id, ${sums}, max((id >> 10) + duration_ms) from usage group by 1, 2`,
      )
      sqlite.run(
        `insert into usage_by_day select (id >> 10) / 86400000, user_number, model_id, ${sums} from usage group by 1, 2, 3`,
      )
    })()
    sqlite.run('pragma wal_checkpoint(truncate)')
  } finally {
    sqlite.close()
  }
}
