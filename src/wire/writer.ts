import type { ErrorBody } from '../errors.ts'
import type { Line } from './ollama.ts'

/** OpenAI's `usage` object; what a client reads always equals its ledger row. */
export type Usage = {
  prompt_tokens: number
  completion_tokens: number
  total_tokens: number
  completion_tokens_details?: { reasoning_tokens: number }
}

/**
 * One answer being written in a client's dialect, from Ollama's lines. The relay drives it and knows nothing of the
 * dialect: runs are numbered from 0 and come one after another (choice i of `n` is run i).
 *
 * A stream's writer returns SSE text to send now ('' for nothing); a plain answer's writer returns '' until `end`,
 * which returns the JSON body.
 */
export interface Writer {
  /** One line of a run, the `done` line included. Never called with an error line. */
  line(run: number, line: Line): string
  /** The run ended: `reason` is Ollama's `done_reason`, or 'length' when a limit ended it. Its finish chunk. */
  endRun(run: number, reason: string | undefined): string
  /** All runs ended well: the usage chunk where asked for and `[DONE]`, or the whole body. */
  end(usage: Usage): string
  /** The answer broke: an error chunk (no `[DONE]` follows, every SDK raises). For a plain answer: the error body. */
  fail(error: ErrorBody): string
}
