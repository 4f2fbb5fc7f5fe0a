/**
 * Between which numbers a row must stand that Ollama gave no final count for. The simulator's log says what was
 * worked, the client what it had read.
 *
 * - A prompt is estimated: from 0.7 to 1.7 times what it was, and 16 more or less, as little may have been learnt yet.
 *   0 where the simulator refused (a status of 500 or more), unless the client left or a kill came before the proxy
 *   could note that; perhaps 0 where it broke the connection off before its first byte was read (reset, or crashed).
 * - A request that never reached the simulator costs nothing when it failed, and at most its prompt when the client
 *   left or a kill came while it was being sent.
 * - Completion tokens are counted with a ratio that is learnt from completed streams: at least one for each piece of
 *   text that the client had read (a piece of a model that is not learnt yet may have held more), at most what the
 *   simulator had generated, each with 2 tokens and 5 % of play; twice that many and 25 % where lines hold several
 *   tokens, and 8 tokens for a tool call's frame, as kills leave little time to learn these.
 * - After a crash the last checkpoint stands: at least what the client had read a quarter of a second before the kill,
 *   less 16 tokens. (A checkpoint is due after 16 tokens or a second, whichever is first, and is committed within a
 *   turn of the event loop, while the lines that made it due are on their way.)
 */
import type { LogEntry } from '../src/simulator/journal.ts'

export type Bounds = { least: number; most: number }

const PROMPT = { least: 0.7, most: 1.7, play: 16 }
const RATIO = { play: 2, share: 0.05 }
const LUMPY_RATIO = { play: 4, share: 0.25 }
/** The frame around a call, before it is learnt. */
const CALL_PLAY = 8

const CHECKPOINT_TOKENS = 16
/** What was read so long before a kill is in a checkpoint. */
export const COMMITTED_WITHIN_MS = 250

const refused = ({ ended, generated }: LogEntry) =>
  ended !== null && (/^fault:\d/.test(ended) || (ended === 'fault:reset' && generated === 0))

type PromptCase = { more: number; crashed: boolean; left: boolean; died: ReadonlySet<LogEntry> }

/**
 * Of a prompt that ran as these entries; `more` are runs that may have been sent and never arrived. After a crash only
 * the first run's prompt is sure to stand in a checkpoint.
 */
export const promptBounds = (
  entries: readonly LogEntry[],
  { more, crashed, left, died }: PromptCase,
): Bounds => {
  let least = 0
  let most = 0
  for (const [index, entry] of entries.entries()) {
    const sure = !refused(entry) && !died.has(entry) && (!crashed || index === 0)
    if (sure) least += Math.max(0, PROMPT.least * entry.promptTokens - PROMPT.play)
    if (crashed || left || !/^fault:\d/.test(entry.ended ?? ''))
      most += PROMPT.most * entry.promptTokens + PROMPT.play
  }
  const unseen = (entries[0]?.promptTokens ?? 100) * PROMPT.most + PROMPT.play
  return { least, most: most + more * unseen }
}

/**
 * `pieces`: those the client had read, before a kill those it had read COMMITTED_WITHIN_MS earlier; `lumpy`: the
 * model's lines hold several tokens.
 */
type CompletionCase = { pieces: number; crashed: boolean; lumpy: boolean; withTool: boolean }

/** Of a row that was counted, or cut off by a crash. */
export const completionBounds = (
  entries: readonly LogEntry[],
  { pieces, crashed, lumpy, withTool }: CompletionCase,
): Bounds => {
  const { play, share } = lumpy ? LUMPY_RATIO : RATIO
  const generated = entries.reduce((sum, entry) => sum + entry.generated, 0)
  const least = pieces * (1 - share) - play - (crashed ? CHECKPOINT_TOKENS : 0)
  const most = generated * (1 + share) + play + (withTool ? CALL_PLAY : 0)
  return { least: Math.max(0, least), most: entries.length === 0 ? 0 : most }
}

export const outside = (value: number, { least, most }: Bounds): boolean => value < least || value > most
export const shown = ({ least, most }: Bounds): string => `${Math.ceil(least)}–${Math.floor(most)}`
