/**
 * Admission control: one atomic step over all five limits, before any work is sent to Ollama.
 *
 * The rule: a request counts from its admission until one window later; a token counts from the moment it is
 * promised until one window after it was delivered; what was promised and not used is returned at once.
 */

/** A limit of null is unlimited, 0 admits nothing. */
export type Limits = {
  requestsPerMinute: number | null
  requestsPerDay: number | null
  tokensPerMinute: number | null
  tokensPerDay: number | null
  totalTokens: number | null
}
export type LimitName = keyof Limits

/** What a request asks for, in whole tokens. */
export type Demand = {
  /** The prompt's estimate; reserved until the prompt's real count is known. */
  prompt: number
  /** What such an answer usually needs, never more than the client's own maximum; 0 for embeddings. */
  usual: number
}

/** Why not, and when. Expected, so a value and not an exception. */
export type Refusal = {
  admitted: false
  limit: LimitName
  size: number
  /** Settled or delivered and still counted; without reservations. */
  used: number
  /** Promised to requests in flight. */
  reserved: number
  /** What this request needed: 1 for request limits, else tokens. */
  needed: number
  /**
   * Whole milliseconds, at least 1, until the very same request is admitted if nothing else comes. Exact when the user
   * has nothing in flight (one millisecond earlier it is refused), for request limits always. Else 1,000 when only
   * reservations stand in the way, and when delivered tokens do too, the instant at which these have left, but no
   * sooner than in 1,000. Null when waiting cannot help: the limit is 0, prompt and one token are over its size, or
   * settled use leaves no room for them in the total.
   */
  retryAfterMs: number | null
  /**
   * Settled use alone fills the total limit: OpenAI's `insufficient_quota`. What requests in flight have delivered
   * is still corrected when they settle, so it does not count here.
   */
  quotaFilled: boolean
}

export type LimitState = {
  used: number
  reserved: number
  limit: number | null
  /**
   * When the window would be empty if nothing more came, in the store's own clock: now when it is empty, as if all
   * that is reserved were delivered now while there is any; null for the total.
   */
  resetsAtMs: number | null
}

/** What a request holds between its admission and its settlement. Opaque outside the store. */
export type Hold = {
  readonly user: number
  /** Output tokens granted so far, delivered ones included. */
  readonly granted: number
  /**
   * What the user had left for output at the admission, the grant included: the most that Ollama may be told to
   * generate. Infinity where no token limit is set.
   */
  readonly room: number
}

export type Admitted = { admitted: true; hold: Hold }

/**
 * Sliding windows of all users. Every method is one atomic step. `nowMs` is epoch milliseconds; one before the last
 * seen counts as the last seen. A window may hold what it counts up to 1 % of its length longer, never shorter, and
 * requests of a minute not even that under limits up to 1,000.
 * In memory now; a store shared by processes would implement the same port and pass the same contract suite.
 */
export interface WindowStore {
  /**
   * Check and take, in every window at once, all or nothing. With other requests of the user in flight it needs
   * room for `prompt + usual`; alone, for `prompt + min(usual, 1)`. Grants `min(usual, room)` tokens of output.
   * `settledTotal` is the user's lifetime total by the ledger, used where the store holds none for the user.
   */
  admit(user: number, limits: Limits, demand: Demand, settledTotal: number, nowMs: number): Admitted | Refusal
  /** The refusal that `admit` would give, where the store holds the user's total itself. Takes nothing. */
  refusal(user: number, limits: Limits, demand: Demand, nowMs: number): Refusal | undefined
  /** True when the store must be given a `settledTotal` for this user. */
  needsTotal(user: number): boolean
  /** The prompt was read by Ollama (its first line came): from now on it counts as delivered. Once; again does nothing. */
  promptDelivered(hold: Hold, nowMs: number): void
  /** So many granted tokens reached the client. Never more in sum than `granted`. */
  delivered(hold: Hold, tokens: number, nowMs: number): void
  /** More output: grants between `least` and `wanted` tokens under the token limits as they are now, or 0. */
  extend(hold: Hold, limits: Limits, least: number, wanted: number, nowMs: number): number
  /** What may be generated in all as things stand now: what is granted and what is left beside it. */
  room(hold: Hold, limits: Limits, nowMs: number): number
  /**
   * Closes the hold at what it really cost: the prompt counts where it was delivered, else now; output beyond what was
   * delivered counts now, output short of it is taken back, newest first; what was promised and not used is returned.
   * The request counts even at `{ prompt: 0, completion: 0 }`. Whatever is called with a closed hold does nothing.
   */
  settle(hold: Hold, real: { prompt: number; completion: number }, nowMs: number): void
  /** As if it had never been admitted: not even a request is counted. */
  withdraw(hold: Hold): void
  /** The five limits as they stand. */
  view(user: number, limits: Limits, settledTotal: number, nowMs: number): Record<LimitName, LimitState>
  /** Deletes a user's windows; with its holds in flight nothing has any effect any more, and `extend` gives 0. */
  forget(user: number): void
  /**
   * One closed request of the past, for the rebuild at start: a request at `admittedMs`, all its tokens at `endedMs`.
   * Called in any order before the first admission; instants in the future count as now.
   */
  recall(entry: { user: number; admittedMs: number; endedMs: number; tokens: number }, nowMs: number): void
  /** Drops users whose windows are empty and who have nothing in flight. Called now and then; bounded work a call. */
  sweep(nowMs: number): void
}
