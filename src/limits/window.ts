/**
 * The arithmetic of one user's sliding windows: plain records and functions on them, no clock. What happened at t
 * counts in [t, t + W). Instants are epoch milliseconds and never go back.
 *
 * Two representations, both always kept, so that a changed limit never has to guess what happened before:
 * - Stamps: the exact instants of the newest 1,024 requests of the last minute. Whether one more fits under a limit
 *   of n depends on the n-th newest alone, so they are exact for every limit up to 1,000, however many requests came.
 * - Cells: requests and tokens summed by 1/100 of the window (0.6 s of a minute, 14.4 min of a day). A cell is kept
 *   one cell longer than the window, until the last instant it may hold has left: what it counts leaves late by at
 *   most 1 % of the window and never early. Only touched cells are listed, oldest first, at most 101.
 *
 * At most 8 KB of stamps and 2.4 KB a window of cells a user, in typed arrays that grow as needed.
 */
export const MINUTE_MS = 60_000
export const DAY_MS = 86_400_000

const CELLS = 100
/** A cell's number, its requests, its tokens. */
const FIELDS = 3
/** A power of two, so that the place in the ring is a mask; the 24 above the exact limit are spare for withdrawals. */
const STAMPS_MAX = 1024

const none = new Float64Array(0)
const valueAt = (list: Float64Array, index: number) => list[index] ?? 0

export type Cells = {
  readonly cellMs: number
  /** The running cell and its end: the division is done once a cell. */
  current: number
  currentEndMs: number
  list: Float64Array
  /** Cells in use, FIELDS numbers each. */
  length: number
  requests: number
  tokens: number
}

type Column = 'requests' | 'tokens'

export const createCells = (windowMs: number): Cells => ({
  cellMs: windowMs / CELLS,
  current: 0,
  currentEndMs: 0,
  list: none,
  length: 0,
  requests: 0,
  tokens: 0,
})

export const cellAt = (cells: Cells, atMs: number) => Math.floor(atMs / cells.cellMs)

/** When what is counted in `cell` leaves the window. */
const leavesAt = (cells: Cells, cell: number) => (cell + CELLS + 1) * cells.cellMs

/** Makes the cell of `nowMs` the running one and drops those that have left. */
export const advance = (cells: Cells, nowMs: number) => {
  if (nowMs < cells.currentEndMs) return
  cells.current = cellAt(cells, nowMs)
  cells.currentEndMs = (cells.current + 1) * cells.cellMs
  const oldest = cells.current - CELLS
  let gone = 0
  while (gone < cells.length && valueAt(cells.list, gone * FIELDS) < oldest) {
    cells.requests -= valueAt(cells.list, gone * FIELDS + 1)
    cells.tokens -= valueAt(cells.list, gone * FIELDS + 2)
    gone++
  }
  if (gone === 0) return
  cells.list.copyWithin(0, gone * FIELDS, cells.length * FIELDS)
  cells.length -= gone
}

const grown = (list: Float64Array, length: number) => {
  const larger = new Float64Array(length)
  larger.set(list)
  return larger
}

/** Adds to a cell, or takes away (negative) what was added before; a cell that has left the window is let be. */
export const add = (cells: Cells, cell: number, requests: number, tokens: number) => {
  if (cell < cells.current - CELLS) return
  let place = cells.length
  while (place > 0 && valueAt(cells.list, (place - 1) * FIELDS) > cell) place--
  const known = place > 0 && valueAt(cells.list, (place - 1) * FIELDS) === cell
  const start = (known ? place - 1 : place) * FIELDS
  if (!known) {
    const end = cells.length * FIELDS
    if (end === cells.list.length)
      cells.list = grown(cells.list, Math.min(Math.max(2 * cells.length, 4), CELLS + 1) * FIELDS)
    cells.list.copyWithin(start + FIELDS, start, end)
    cells.list[start] = cell
    cells.list[start + 1] = 0
    cells.list[start + 2] = 0
    cells.length++
  }
  cells.list[start + 1] = valueAt(cells.list, start + 1) + requests
  cells.list[start + 2] = valueAt(cells.list, start + 2) + tokens
  cells.requests += requests
  cells.tokens += tokens
}

/** The first instant at which `excess` of what is counted will have left; all of it at the latest. */
export const freedAt = (cells: Cells, column: Column, excess: number): number => {
  const field = column === 'requests' ? 1 : 2
  let missing = excess
  let start = 0
  for (; start < (cells.length - 1) * FIELDS; start += FIELDS) {
    missing -= valueAt(cells.list, start + field)
    if (missing <= 0) break
  }
  return leavesAt(cells, valueAt(cells.list, start))
}

/** When all that is counted will have left; undefined when nothing is. */
export const emptyAt = (cells: Cells, column: Column): number | undefined =>
  cells[column] === 0 ? undefined : freedAt(cells, column, cells[column])

/** When that which is added now will leave. */
export const addedNowLeavesAt = (cells: Cells): number => leavesAt(cells, cells.current)

/** Where one request's tokens went, cell by cell in order of time, so that a surplus can be taken back. */
export type Trail = number[]

/** Adds to the running cell and notes it. */
export const addAlong = (cells: Cells, trail: Trail, tokens: number) => {
  add(cells, cells.current, 0, tokens)
  const last = trail.length - 2
  if (last >= 0 && trail[last] === cells.current) trail[last + 1] = (trail[last + 1] ?? 0) + tokens
  else trail.push(cells.current, tokens)
  // With more pairs than a window has cells, the first has left.
  if (trail.length > (CELLS + 1) * 2) trail.splice(0, 2)
}

/** Takes tokens back where they were added, newest first. */
export const takeBack = (cells: Cells, trail: Trail, tokens: number) => {
  let left = tokens
  while (left > 0 && trail.length > 0) {
    const last = trail.length - 2
    const taken = Math.min(left, trail[last + 1] ?? 0)
    add(cells, trail[last] ?? 0, 0, -taken)
    trail[last + 1] = (trail[last + 1] ?? 0) - taken
    if (trail[last + 1] === 0) trail.length = last
    left -= taken
  }
}

export type Stamps = {
  /** A ring: `length` instants in order of time, the oldest at `head`. */
  ring: Float64Array
  head: number
  length: number
  /** The newest instant that a full ring had to let go. */
  droppedMs: number
}

export const createStamps = (): Stamps => ({ ring: none, head: 0, length: 0, droppedMs: -Infinity })

/** The stamp at a place: 0 the oldest. */
const stampAt = ({ ring, head }: Stamps, place: number) => valueAt(ring, (head + place) & (ring.length - 1))
const setStamp = ({ ring, head }: Stamps, place: number, atMs: number) => {
  ring[(head + place) & (ring.length - 1)] = atMs
}

/** Drops the stamps that have left the minute. */
export const expire = (stamps: Stamps, nowMs: number) => {
  while (stamps.length > 0 && stampAt(stamps, 0) + MINUTE_MS <= nowMs) {
    stamps.head = (stamps.head + 1) & (stamps.ring.length - 1)
    stamps.length--
  }
}

/** Notes a request; in any order, though only the usual one, newest last, is cheap. */
export const stamp = (stamps: Stamps, atMs: number) => {
  if (stamps.length === STAMPS_MAX) {
    const oldest = stampAt(stamps, 0)
    stamps.droppedMs = Math.max(stamps.droppedMs, Math.min(oldest, atMs))
    if (atMs <= oldest) return
    stamps.head = (stamps.head + 1) & (STAMPS_MAX - 1)
    stamps.length--
  } else if (stamps.length === stamps.ring.length) {
    const inOrder = new Float64Array(stamps.length)
    for (let place = 0; place < stamps.length; place++) inOrder[place] = stampAt(stamps, place)
    stamps.ring = grown(inOrder, Math.max(2 * stamps.length, 4))
    stamps.head = 0
  }
  let place = stamps.length++
  for (; place > 0 && stampAt(stamps, place - 1) > atMs; place--)
    setStamp(stamps, place, stampAt(stamps, place - 1))
  setStamp(stamps, place, atMs)
}

/** Takes one request back, unless it has left already. */
export const unstamp = (stamps: Stamps, atMs: number) => {
  let place = stamps.length - 1
  while (place >= 0 && stampAt(stamps, place) > atMs) place--
  if (place < 0 || stampAt(stamps, place) !== atMs) return
  for (; place < stamps.length - 1; place++) setStamp(stamps, place, stampAt(stamps, place + 1))
  stamps.length--
}

/** From when on every request of the last minute has its stamp: nothing that a full ring let go still counts. */
export const completeAt = (stamps: Stamps) => stamps.droppedMs + MINUTE_MS
export const isComplete = (stamps: Stamps, nowMs: number) => completeAt(stamps) <= nowMs

/** The first instant at which fewer than `limit` of the stamps count; `limit` is at most as many as there are. */
export const fewerThanAt = (stamps: Stamps, limit: number) =>
  stampAt(stamps, stamps.length - limit) + MINUTE_MS

/** When the last stamp will have left; undefined when there is none. */
export const lastLeavesAt = (stamps: Stamps): number | undefined =>
  stamps.length === 0 ? undefined : fewerThanAt(stamps, 1)

/** Gives back the memory of a minute in which nothing happened. */
export const release = (stamps: Stamps, minute: Cells) => {
  if (stamps.length === 0) stamps.ring = none
  if (minute.length === 0) minute.list = none
}
