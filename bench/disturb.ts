/**
 * Asks for one large thing again and again, in a process of its own, and checks each answer:
 *
 * `bun bench/disturb.ts '{"url":"http://…","key":"sk-…",…}'` (DisturbOrder) prints `begun`, works until SIGTERM, and
 * prints one line of JSON (DisturbResult) when the answer that it waits for is there.
 */
import { createAnswerCheck, type Dialect } from './answer.ts'
import { median } from './report.ts'

/** A chat request of one user message or of many, an export of all rows as CSV, or a page of history. */
export type Large =
  | { what: 'text'; bodyBytes: number; dialect: Dialect }
  | { what: 'messages'; count: number; dialect: Dialect }
  | { what: 'export'; rowsAtLeast: number }
  | { what: 'history'; rows: number }

export type DisturbOrder = {
  url: string
  key: string
  large: Large
  /** No two bodies are the same; for messages only. */
  unlike?: boolean
  /** What it must be answered with. */
  status: number
  /** From one beginning to the next; the next waits for the answer before. */
  everyMs: number
}

export type DisturbResult = { answered: number; ms: number; wrong: number; faults: string[] }

const MODEL = { model: 'fake-c1-i0-b1', tokens: 1 }
const FAULTS_MAX = 5

const chat = (messages: object[]) => JSON.stringify({ model: MODEL.model, stream: false, messages })

const toText = (bodyBytes: number) => {
  const sentence = 'The quick brown fox jumps over the lazy dog. '
  const missing = bodyBytes - chat([{ role: 'user', content: '' }]).length
  return sentence.repeat(Math.ceil(missing / sentence.length)).slice(0, missing)
}

const toMessages = (count: number, turn: number) =>
  Array.from({ length: count }, (_, index) => ({
    role: index % 2 === 0 ? 'user' : 'assistant',
    content: `This is message ${turn + index} of a long talk about a proxy.`,
  }))

const toBody = (large: Large, turn: number): Uint8Array | undefined => {
  if (large.what === 'text') return Buffer.from(chat([{ role: 'user', content: toText(large.bodyBytes) }]))
  if (large.what === 'messages') return Buffer.from(chat(toMessages(large.count, turn)))
  return undefined
}

const readChat = async (answer: Response, dialect: Dialect): Promise<string | undefined> => {
  const check = createAnswerCheck({ dialect, stream: false, tokens: MODEL.tokens, onToken() {} })
  check.push(Buffer.from(await answer.arrayBuffer()).toString('latin1'))
  return check.end()
}

const readExport = async (answer: Response, rowsAtLeast: number): Promise<string | undefined> => {
  let rows = -1
  for await (const chunk of answer.body ?? [])
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) rows++
  return rows < rowsAtLeast ? `${rows} rows instead of ${rowsAtLeast}` : undefined
}

const readHistory = async (answer: Response, rows: number): Promise<string | undefined> => {
  const page = (await answer.json()) as { data?: unknown[] }
  return page.data?.length === rows ? undefined : `${page.data?.length} rows instead of ${rows}`
}

/** What was wrong with an answer, or undefined. */
const readAnswer = async (answer: Response, { large, status }: DisturbOrder): Promise<string | undefined> => {
  if (answer.status !== status)
    return `status ${answer.status} instead of ${status}: ${(await answer.text()).slice(0, 200)}`
  if (status !== 200) {
    await answer.arrayBuffer()
    return undefined
  }
  if (large.what === 'export') return readExport(answer, large.rowsAtLeast)
  if (large.what === 'history') return readHistory(answer, large.rows)
  return readChat(answer, large.dialect)
}

/** Asks at least once, until `over` aborts. */
export const disturb = async (order: DisturbOrder, over: AbortSignal): Promise<DisturbResult> => {
  const headers = { authorization: `Bearer ${order.key}` }
  const toInit = (turn: number): RequestInit => {
    const body = toBody(order.large, turn)
    if (body === undefined) return { headers }
    return { method: 'POST', headers: { ...headers, 'content-type': 'application/json' }, body }
  }
  const same = toInit(0)
  const ended = new Promise<void>(resolve => {
    over.addEventListener('abort', () => resolve(), { once: true })
    if (over.aborted) resolve()
  })
  const times: number[] = []
  const faults: string[] = []
  let wrong = 0
  do {
    const next = Bun.sleep(order.everyMs)
    const began = performance.now()
    const fault = await fetch(order.url, order.unlike === true ? toInit(times.length) : same)
      .then(answer => readAnswer(answer, order))
      .catch(error => String(error))
    times.push(performance.now() - began)
    if (fault !== undefined) {
      wrong++
      if (faults.length < FAULTS_MAX) faults.push(`${order.large.what}: ${fault}`)
    }
    await Promise.race([next, ended])
  } while (!over.aborted)
  return { answered: times.length - wrong, ms: median(times), wrong, faults }
}

if (import.meta.main) {
  const over = new AbortController()
  process.on('SIGTERM', () => over.abort())
  console.log('begun')
  console.log(JSON.stringify(await disturb(JSON.parse(process.argv[2] ?? '{}') as DisturbOrder, over.signal)))
  process.exit(0)
}
