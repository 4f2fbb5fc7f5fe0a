/** Rows summed up, and what differs between them and a report: to the token and to 10^-12 of the currency. */
import type { Cell, Row } from './ledger.ts'
import { field } from './sse.ts'

type Sums = { requests: number; prompt: number; completion: number; cost: bigint; gpuUs: bigint }

export const sumOf = (rows: readonly Row[]): Sums => {
  const sums: Sums = { requests: 0, prompt: 0, completion: 0, cost: 0n, gpuUs: 0n }
  for (const row of rows) {
    sums.requests++
    sums.prompt += row.prompt
    sums.completion += row.completion
    sums.cost += row.cost
    sums.gpuUs += row.gpuUs
  }
  return sums
}

export const groupBy = (rows: readonly Row[], keyOf: (row: Row) => string): Map<string, Row[]> => {
  const groups = new Map<string, Row[]>()
  for (const row of rows) {
    const key = keyOf(row)
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [row])
    else group.push(row)
  }
  return groups
}

/** The JSON number that stands for exactly so much. */
export const toMoney = (pico: bigint): number =>
  Number(`${pico / 1_000_000_000_000n}.${String(pico % 1_000_000_000_000n).padStart(12, '0')}`)

/** What differs between a report's five numbers and the rows'; undefined when nothing does. */
export const difference = (report: unknown, rows: readonly Row[]): string | undefined => {
  const { requests, prompt, completion, cost } = sumOf(rows)
  const expected = {
    request_count: requests,
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    total_cost: toMoney(cost),
  }
  const wrong = Object.entries(expected).filter(([name, value]) => field(report, name) !== value)
  return wrong.length === 0
    ? undefined
    : wrong.map(([name, value]) => `${name} is ${field(report, name)}, rows say ${value}`).join(', ')
}

export const cellDifference = (cell: Cell, rows: readonly Row[]): string | undefined => {
  const { requests, prompt, completion, cost, gpuUs } = sumOf(rows)
  const same =
    cell.requests === BigInt(requests) &&
    cell.prompt === BigInt(prompt) &&
    cell.completion === BigInt(completion) &&
    cell.cost === cost &&
    cell.gpuUs === gpuUs
  return same
    ? undefined
    : `cell ${cell.key} holds ${cell.requests}/${cell.prompt}/${cell.completion}/${cell.cost}/${cell.gpuUs}, rows ${requests}/${prompt}/${completion}/${cost}/${gpuUs}`
}

/** What differs between a row as a page or an export shows it and the stored one. */
export const rowDifference = (shown: unknown, row: Row | undefined): string | undefined => {
  if (row === undefined) return `${field(shown, 'id')} is no row`
  const expected = {
    id: row.completionId,
    request_id: row.requestId,
    model: row.model,
    prompt_tokens: row.prompt,
    completion_tokens: row.completion,
    total_tokens: row.prompt + row.completion,
    cost: toMoney(row.cost),
    outcome: row.outcome,
    basis: row.basis,
    prompt_preview: row.preview,
  }
  const wrong = Object.entries(expected).filter(([name, value]) => field(shown, name) !== value)
  return wrong.length === 0
    ? undefined
    : `${row.completionId}: ${wrong.map(([name, value]) => `${name} is ${field(shown, name)}, the row has ${value}`).join(', ')}`
}
