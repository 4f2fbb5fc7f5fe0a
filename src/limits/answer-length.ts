/** What an answer of a model usually needs: the first grant of output. */
import { createRunningQuantile } from './quantile.ts'

export type AnswerLength = {
  /** Tokens, end token included; 512 until a handful of answers was seen, then between 16 and 4096. */
  usual(): number
  /**
   * An answer's `eval_count`. One that did not end by itself (`naturalEnd` false) shows only that answers get at least
   * so long: it is learnt when it is longer than usual.
   */
  learn(completionTokens: number, naturalEnd: boolean): void
  /** Short JSON for `createAnswerLength(saved)`. */
  toText(): string
}

const UNLEARNT = 512
const LEAST = 16
const MOST = 4096
const HANDFUL = 5
const REMEMBERED = 64
/** Nine of ten answers fit, and somewhat longer ones than were seen lately. */
const SHARE = 0.9
const HEAD_ROOM = 1.15

const parseSaved = (text: string | undefined): number[] => {
  if (text === undefined) return []
  try {
    const saved: unknown = JSON.parse(text)
    return Array.isArray(saved) ? saved.filter(Number.isSafeInteger) : []
  } catch {
    return [] // the text of another release: learn anew
  }
}

/** `saved` is a text by `toText`; one that is not understood counts as nothing learnt. */
export const createAnswerLength = (saved?: string): AnswerLength => {
  const recent = createRunningQuantile(REMEMBERED, parseSaved(saved))
  const usual = (): number => {
    if (recent.count < HANDFUL) return UNLEARNT
    return Math.min(MOST, Math.max(LEAST, Math.ceil((recent.at(SHARE) ?? UNLEARNT) * HEAD_ROOM)))
  }
  return {
    usual,
    learn(completionTokens, naturalEnd) {
      if (!(completionTokens >= 0) || !Number.isFinite(completionTokens)) return
      if (naturalEnd || completionTokens > usual()) recent.add(Math.round(completionTokens))
    },
    toText: () => JSON.stringify(recent.values()),
  }
}
