/** Medians over rounds, each round compared with the same round of another row, and the table on the terminal. */
import type { LoadName } from './loads.ts'
import { type Column, type Result, sections } from './sections.ts'

/** One measurement: which load, which row of its table, which round. */
export type Measurement = { load: LoadName; row: string; round: number; result: Result }

export const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}

/** The medians of a row: of each column's figure and of what stands beside it. */
export type Cell = {
  title: string
  median: number
  beside?: { kind: string; median: number; min: number; max: number }
}

/** The row that each kind of comparison is against. */
const rowBeside = { 'times bare': 'bare', 'over direct': 'direct', 'over nothing': 'nothing' } as const

/** What a load gave, row by row: each round is compared with the same round of the row it is measured against. */
export const summarize = (load: keyof typeof sections, measurements: readonly Measurement[]) => {
  const ours = measurements.filter(measurement => measurement.load === load)
  const rows = [...new Set(ours.map(measurement => measurement.row))]
  const of = (row: string, round: number) => ours.find(one => one.row === row && one.round === round)?.result

  const cellOf = (row: string, { title, figure, beside }: Column): Cell | undefined => {
    const mine = ours.filter(measurement => measurement.row === row)
    const figures = mine.map(({ result }) => figure(result)).filter(value => value !== undefined)
    if (figures.length === 0) return undefined
    const cell: Cell = { title, median: median(figures) }
    const against = beside === undefined ? undefined : rowBeside[beside]
    if (beside === undefined || against === undefined || row === against || row === 'direct') return cell
    const compared = mine.flatMap(({ round, result }) => {
      const other = of(against, round)
      const base = other === undefined ? undefined : figure(other)
      const value = figure(result)
      if (base === undefined || value === undefined) return []
      return [beside === 'times bare' ? value / base : value - base]
    })
    if (compared.length === 0) return cell
    return {
      ...cell,
      beside: {
        kind: beside,
        median: median(compared),
        min: Math.min(...compared),
        max: Math.max(...compared),
      },
    }
  }

  return rows.map(row => ({
    row,
    cells: sections[load].columns.map(column => cellOf(row, column)),
  }))
}

/** Above this share of its core the load's side can't be called idle. */
const BUSY = 0.85

/** Rows whose throughput the load's side (generator and simulated Ollama, on one core) may have bounded. */
export const boundByLoad = (load: keyof typeof sections, measurements: readonly Measurement[]): string[] => {
  if (!sections[load].saturates) return []
  const rows = Map.groupBy(
    measurements.filter(measurement => measurement.load === load && measurement.row !== 'direct'),
    measurement => measurement.row,
  )
  return [...rows].flatMap(([row, ours]) => {
    const share = median(ours.map(({ result }) => result.generatorBusy + (result.upstreamBusy ?? 0)))
    const server = median(ours.map(({ result }) => result.serverBusy ?? 1))
    return share >= BUSY && share > server ? [row] : []
  })
}

const number = (value: number, digits = 0) =>
  value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits })

const beside = (cell: Cell, digits: number | undefined) => {
  if (cell.beside === undefined) return ''
  const { kind, median: middle, min, max } = cell.beside
  if (kind === 'times bare') return ` (×${number(middle, 2)}; ${number(min, 2)}–${number(max, 2)})`
  return ` (${middle < 0 ? '' : '+'}${number(middle, digits)})`
}

/** A Markdown table, which is as readable on a terminal. */
export const toTable = (head: readonly string[], rows: readonly (readonly string[])[]): string => {
  const widths = head.map((title, index) =>
    Math.max(title.length, ...rows.map(row => row[index]?.length ?? 0)),
  )
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, index) => cell.padEnd(widths[index] ?? 0)).join(' | ')} |`
  return [line(head), `| ${widths.map(width => '-'.repeat(width)).join(' | ')} |`, ...rows.map(line)].join(
    '\n',
  )
}

export const printLoad = (load: keyof typeof sections, measurements: readonly Measurement[]): string => {
  const { title, columns } = sections[load]
  const rows = summarize(load, measurements).map(({ row, cells }) => [
    row,
    ...cells.map((cell, index) => {
      const digits = columns[index]?.digits
      return cell === undefined ? '–' : number(cell.median, digits) + beside(cell, digits)
    }),
  ])
  const bound = boundByLoad(load, measurements)
  const note =
    bound.length === 0
      ? ''
      : `\nThe load generator and the simulated Ollama had no core time left for: ${bound.join(', ')}. Their throughput is a lower bound; compare CPU times.`
  return `${title}\n\n${toTable(['', ...columns.map(column => column.title)], rows)}${note}\n`
}
