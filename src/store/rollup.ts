/**
 * Roll-ups: sums beside the ledger that are added to in the very transaction that adds the rows, so that they agree
 * with the rows at every commit. A group of rows is summed up first, then written once per cell.
 */
import { sql } from 'drizzle-orm'
import { startedMs } from '../ids.ts'
import { costOf } from '../pricing.ts'
import { placeholders, type SyncDatabase } from './database.ts'
import type { Closing } from './ledger.ts'
import { usageByDay, usageByHour, usageByUser } from './schema.ts'

export const MINUTE_MS = 60_000
export const HOUR_MS = 3_600_000
export const DAY_MS = 86_400_000

/** What the graphics card worked for a request: reading its prompt and generating. Loading the model serves others too. */
export const gpuUsOf = (row: { promptEvalUs: number; evalUs: number }): number =>
  row.promptEvalUs + row.evalUs

/** A number stays exact here: a group holds far less than the 9·10^9 units of the currency that fill a double. */
type Cell = {
  requests: number
  promptTokens: number
  completionTokens: number
  costMicro: number
  costPico: number
  gpuUs: number
  lastEndMs: number
}

const added = {
  requests: sql`requests + excluded.requests`,
  promptTokens: sql`prompt_tokens + excluded.prompt_tokens`,
  completionTokens: sql`completion_tokens + excluded.completion_tokens`,
  costMicro: sql`cost_micro + excluded.cost_micro`,
  costPico: sql`cost_pico + excluded.cost_pico`,
  gpuUs: sql`gpu_us + excluded.gpu_us`,
}

/** Adds a closed row to the cell of this key. */
const addTo = <K extends object>(cells: Map<string, K & Cell>, text: string, key: K, row: Closing) => {
  let cell = cells.get(text)
  if (cell === undefined) {
    const none = { requests: 0, promptTokens: 0, completionTokens: 0, costMicro: 0, costPico: 0, gpuUs: 0 }
    cell = { ...key, ...none, lastEndMs: 0 }
    cells.set(text, cell)
  }
  const cost = costOf(row.promptTokens, row.completionTokens, row.price)
  cell.requests += 1
  cell.promptTokens += row.promptTokens
  cell.completionTokens += row.completionTokens
  cell.costMicro += cost.micro
  cell.costPico += cost.pico
  cell.gpuUs += gpuUsOf(row)
  cell.lastEndMs = Math.max(cell.lastEndMs, startedMs(row.id) + row.durationMs)
}

/** Returns what adds newly closed rows to every roll-up; to be called inside the rows' transaction. */
export const createRollup = (db: SyncDatabase): ((rows: Iterable<Closing>) => void) => {
  const byUser = db
    .insert(usageByUser)
    .values(placeholders(usageByUser))
    .onConflictDoUpdate({ target: [usageByUser.userNumber, usageByUser.modelId], set: added })
    .prepare()
  const byHour = db
    .insert(usageByHour)
    .values(placeholders(usageByHour))
    .onConflictDoUpdate({
      target: [usageByHour.hour, usageByHour.modelId],
      set: { ...added, lastEndMs: sql`max(last_end_ms, excluded.last_end_ms)` },
    })
    .prepare()
  const byDay = db
    .insert(usageByDay)
    .values(placeholders(usageByDay))
    .onConflictDoUpdate({ target: [usageByDay.day, usageByDay.userNumber, usageByDay.modelId], set: added })
    .prepare()

  return rows => {
    const users = new Map<string, { userNumber: number; modelId: number } & Cell>()
    const hours = new Map<string, { hour: number; modelId: number } & Cell>()
    const days = new Map<string, { day: number; userNumber: number; modelId: number } & Cell>()
    for (const row of rows) {
      const { userNumber, modelId } = row
      const hour = Math.floor(startedMs(row.id) / HOUR_MS)
      const day = Math.floor(startedMs(row.id) / DAY_MS)
      addTo(users, `${userNumber}/${modelId}`, { userNumber, modelId }, row)
      addTo(hours, `${hour}/${modelId}`, { hour, modelId }, row)
      addTo(days, `${day}/${userNumber}/${modelId}`, { day, userNumber, modelId }, row)
    }
    for (const cell of users.values()) byUser.run(cell)
    for (const cell of hours.values()) byHour.run(cell)
    for (const cell of days.values()) byDay.run(cell)
  }
}
