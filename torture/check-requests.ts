/** Every single request: what the simulator was asked, what stands in the ledger, what the client was told. */
import type { LogEntry } from '../src/simulator/journal.ts'
import type { Prices } from './accounts.ts'
import { COMMITTED_WITHIN_MS, completionBounds, outside, promptBounds, shown } from './bounds.ts'
import type { Seen } from './client.ts'
import type { Row } from './ledger.ts'
import type { Scorecard } from './scorecard.ts'

export type Evidence = {
  seen: readonly Seen[]
  log: readonly LogEntry[]
  rows: readonly Row[]
  prices: Prices
  outages: readonly { fromMs: number; toMs: number }[]
  /** Answers that a crash of the simulator cut off. */
  died: ReadonlySet<LogEntry>
}

/** One attempt with all that is known of it. */
type Case = { seen: Seen; entries: LogEntry[]; rows: Row[] }

/** Clocks of two processes are read at different moments; a millisecond is rounded. */
const CLOCK_MS = 2
/** A connection that a kill cut may be noticed so much later. */
const NOTICED_MS = 500

const tagIn = (text: string | null) => (text === null ? undefined : /\[\[tag:([^\]]+)\]\]/.exec(text)?.[1])

/** Joins the three accounts: by tag, embeddings by their client's order (one at a time, a model for each client). */
const toCases = ({ seen, log, rows }: Evidence, scorecard: Scorecard): Case[] => {
  const cases = new Map<string, Case>()
  const embeddings = new Map<string, Case[]>()
  for (const one of seen) {
    const found = { seen: one, entries: [], rows: [] }
    cases.set(one.attempt.tag, found)
    if (one.attempt.dialect !== 'embedding') continue
    embeddings.set(one.attempt.model, [...(embeddings.get(one.attempt.model) ?? []), found])
  }
  const embeddingAt = (model: string, atMs: number) =>
    embeddings.get(model)?.findLast(({ seen: { startedMs } }) => startedMs <= atMs)
  const unknown = scorecard.check('every row and every request at Ollama belongs to a client')
  for (const entry of log) {
    const found =
      entry.path === '/api/embed'
        ? embeddingAt(entry.model, entry.startedAt)
        : cases.get(entry.requestTag ?? '')
    unknown.note(found === undefined ? `Ollama's request ${entry.seq} has no client` : undefined)
    found?.entries.push(entry)
  }
  for (const row of rows) {
    const found =
      row.kind === 'embedding' ? embeddingAt(row.model, row.startedMs) : cases.get(tagIn(row.preview) ?? '')
    unknown.note(found === undefined ? `row ${row.completionId} has no client` : undefined)
    found?.rows.push(row)
  }
  return [...cases.values()]
}

const sum = (numbers: readonly number[]) => numbers.reduce((total, number) => total + number, 0)

const describe = ({ seen, entries, rows }: Case) => {
  const { tag, model, dialect, stream, choices } = seen.attempt
  const row = rows[0]
  const inRow =
    row === undefined ? 'no row' : `row ${row.outcome}/${row.basis} ${row.prompt}+${row.completion}`
  const atOllama = entries.map(entry => `${entry.ended} ${entry.promptTokens}+${entry.generated}`).join(', ')
  const way = `${dialect} ${model}${stream ? ' stream' : ''}${choices > 1 ? ` n=${choices}` : ''}`
  return `${tag} (${way}): ${inRow}; Ollama: ${atOllama || 'nothing'}; client: ${seen.end} ${seen.status ?? ''} read ${seen.tokens}`
}

export const checkRequests = (evidence: Evidence, scorecard: Scorecard): void => {
  const { outages, prices, died } = evidence
  const cases = toCases(evidence, scorecard)
  const about = (title: string, one: Case, holds: boolean, more = '') =>
    scorecard.check(title).note(holds ? undefined : `${describe(one)}${more === '' ? '' : `; ${more}`}`)
  const killedIn = (fromMs: number, toMs: number) =>
    outages.some(outage => outage.fromMs <= toMs && outage.toMs >= fromMs)

  const checkBounds = (one: Case, row: Row) => {
    const { seen, entries } = one
    const title = `${row.outcome} rows within their bounds`
    const crashed = row.outcome === 'recovered'
    const neverSent = entries.length === 0 && row.outcome === 'failed'
    const more = neverSent ? 0 : seen.attempt.choices - entries.length
    const promptDue = promptBounds(entries, { more, crashed, left: row.outcome === 'cancelled', died })
    const killedMs = outages.find(({ fromMs }) => fromMs >= row.startedMs - CLOCK_MS)?.fromMs ?? 0
    const readBy = crashed ? killedMs - COMMITTED_WITHIN_MS : Number.POSITIVE_INFINITY
    const completion = completionBounds(entries, {
      pieces: seen.reads.filter(({ atMs }) => atMs <= readBy).length,
      crashed,
      lumpy: row.model === 'lumpy',
      withTool: seen.attempt.withTool,
    })
    about(title, one, !outside(row.prompt, promptDue), `prompt must be ${shown(promptDue)}`)
    about(title, one, !outside(row.completion, completion), `completion must be ${shown(completion)}`)
  }

  const checkRow = (one: Case, row: Row) => {
    const { seen, entries } = one
    const whole = entries.length > 0 && entries.every(({ ended }) => ended === 'done')
    if (row.outcome === 'completed') about('nothing completed without Ollama', one, entries.length > 0)
    if (row.basis === 'measured') {
      const prompt = sum(entries.map(entry => entry.promptTokens))
      const completion = sum(entries.map(entry => entry.completionTokens ?? 0))
      const exact = whole && row.prompt === prompt && row.completion === completion
      about('measured rows are exactly what Ollama reported', one, exact, `must be ${prompt}+${completion}`)
    } else checkBounds(one, row)
    if (row.outcome === 'completed' && row.basis === 'counted') {
      const cut =
        seen.end !== 'whole' || seen.attempt.userId === 'few-tokens' || seen.attempt.userId === 'capped'
      about("completed rows without Ollama's count are answers that a limit cut", one, cut)
    }
    if (row.outcome === 'recovered') {
      const killed = outages.some(({ fromMs }) => fromMs >= row.startedMs - CLOCK_MS)
      about('recovered rows are requests that a kill cut off', one, killed && seen.end !== 'whole')
    }
    const idsFit =
      [...seen.ids].every(id => id === row.completionId) &&
      (seen.requestId ?? row.requestId) === row.requestId
    about("the row's id is the one the client saw", one, idsFit, [...seen.ids].join(' '))
    about(
      'rows stand under the right user and model',
      one,
      row.userId === seen.attempt.userId && row.model === seen.attempt.model,
    )
    checkCost(one, row)
  }

  const checkCost = (one: Case, row: Row) => {
    const history = prices.get(row.model) ?? []
    const costs = history
      .filter((price, index) => {
        const next = history[index + 1]
        // A request that arrives just before a change may ask for its price just after.
        const begun = price.askedMs <= row.admittedMs + CLOCK_MS
        return begun && (next === undefined || next.doneMs >= row.startedMs - CLOCK_MS)
      })
      .map(price => price.input * BigInt(row.prompt) + price.output * BigInt(row.completion))
    const fits = history.length === 0 ? row.cost === 0n : costs.includes(row.cost)
    about(
      'costs are exact, at the price of the start',
      one,
      fits,
      `cost ${row.cost}, not ${costs.join(' or ')}`,
    )
  }

  for (const one of cases) {
    const { seen, entries, rows } = one
    const [row] = rows
    if (entries.length > 0) about('every request that Ollama received has a row', one, row !== undefined)
    about('no request has two rows', one, rows.length <= 1, `${rows.length} rows`)
    about('no run was sent to Ollama twice', one, entries.length <= seen.attempt.choices)
    if (row !== undefined) checkRow(one, row)
    if (seen.end === 'whole') {
      const told = seen.usage
      const same = told === undefined || (told.prompt === row?.prompt && told.completion === row.completion)
      const title = 'every answer read to its end has a completed row with the usage that was read'
      about(title, one, row?.outcome === 'completed' && same, `told ${told?.prompt}+${told?.completion}`)
    }
    if (seen.end === 'error chunk')
      about('streams that failed are not completed', one, row !== undefined && row.outcome !== 'completed')
    if (seen.end === 'cut' || seen.end === 'unreachable') {
      const killed = killedIn(seen.startedMs - CLOCK_MS, seen.endedMs + NOTICED_MS)
      about('connections break only when the proxy is killed', one, killed)
    }
    if (seen.end === 'refused') {
      const work = (row?.prompt ?? 0) + (row?.completion ?? 0)
      if ((seen.status ?? 0) < 500)
        about(
          'refused requests make no row',
          one,
          row === undefined && entries.length === 0,
          String(seen.code),
        )
      else
        about('a 5xx after work tells the SDK not to retry', one, work === 0 || seen.shouldRetry === 'false')
    }
    scorecard
      .check('answers are well formed')
      .note(seen.faults.length === 0 ? undefined : `${describe(one)}; ${seen.faults.join('; ')}`)
  }

  const ids = new Set<string>()
  for (const { requestId, attempt } of evidence.seen) {
    if (requestId === undefined) continue
    scorecard
      .check('ids are never used twice')
      .note(ids.has(requestId) ? `${attempt.tag}: ${requestId}` : undefined)
    ids.add(requestId)
  }
}
