/**
 * How many tokens have arrived, while a stream runs. Ollama reports `eval_count` on the last line only, and a line is
 * not a token: a held back character, tag or tool call arrives as one line of several tokens.
 *
 * Per model, learnt from completed streams: a linear regression of `eval_count` over what the lines held. Unlearnt, a
 * piece of text is one token, or one for four bytes where it is longer than tokens are. What is billed is the likeliest
 * count; a grant must cover the doubt about it too, which fades as the model is learnt.
 *
 * The end token, which Ollama counts and nobody sees, is no part of any line: it is left out here, and taken off
 * `eval_count` when learning from an answer that ended by itself. `num_predict` cuts before it.
 */
import type { Line, OllamaToolCall } from '../wire/ollama.ts'
import { createRegression, type Prior } from './regression.ts'
import { utf8Bytes } from './utf8.ts'

/** Learns how many tokens the lines of one model hold. */
export type TokenRatio = {
  /** Tokens for one of each feature of the lines; the same array for ever. */
  readonly weights: Float64Array
  /** How far off these features' tokens may be, as a standard deviation: less with each answer learnt. */
  spread(seen: Float64Array): number
  /** A run ended with this `eval_count`; `naturalEnd`: by itself (`done_reason` stop), not by `num_predict`. */
  learn(counter: CompletionCounter, evalCount: number, naturalEnd: boolean): void
  /** Short JSON for `createTokenRatio(saved)`. */
  toText(): string
}

/** Counts one run. */
export type CompletionCounter = {
  /**
   * The tokens that this line is worth, as a whole number; fractions are carried to the next. The first line that
   * delivers anything is worth at least one, a line with nothing none. A line with `logprobs` is counted exactly.
   */
  note(line: Line): number
  /** The sum of all that `note` returned. */
  readonly count: number
  /**
   * How many more the same lines may hold if the model's are fuller than is believed: what a grant must cover beyond
   * `count`. Less with each answer learnt; none for text that came a token a line, and with `logprobs`.
   */
  readonly doubt: number
  /** Of `count`, what was thinking. */
  readonly reasoning: number
  /** What the lines held, for `TokenRatio.learn`. */
  readonly seen: Float64Array
}

const SHORT_PIECE = 0
const SHORT_BYTE = 1
const LONG_BYTE = 2
const THINKING_BEGUN = 3
const THINKING_ENDED = 4
const TOOL_CALL = 5
const TOOL_BYTE = 6
const THREE_BYTES = 7
const FOUR_BYTES = 8
const FURTHER_WORD = 9

/** The features and what one of each usually is, in the order of the indices above. */
const priors: readonly Prior[] = [
  { mean: 1, sd: 0.2 },
  { mean: 0, sd: 0.01 },
  { mean: 0.25, sd: 0.12 },
  // The tags around thinking: never shown, counted by Ollama.
  { mean: 1, sd: 1 },
  { mean: 1, sd: 1 },
  // The frame of a call (tags, "name", "arguments"), then its name and arguments.
  { mean: 8, sd: 6 },
  { mean: 0.25, sd: 0.1 },
  // A piece with one character of three bytes, and each of four: a rare one is a token a byte, held back until whole.
  { mean: 1, sd: 1 },
  { mean: 1, sd: 2 },
  // Words after a piece's first: tokens seldom hold several, but what a stop string made wait does.
  { mean: 0, sd: 1 },
]

/**
 * Ollama sends a token at a time, so any other short piece is one, unless a model teaches otherwise: a doubt here would
 * cut answers short that have room.
 */
const UNDOUBTED = [SHORT_PIECE, SHORT_BYTE]

/** Tokens are hardly ever longer; a longer piece was held back and holds several. */
const SHORT_PIECE_BYTES = 24

/** How many standard deviations of doubt a grant covers. Of more, streams in parallel would be cut that have room. */
const DOUBT = 1

/** Streams of equal features differ by split characters and stop strings. */
const noiseOf = (tokens: number): number => 0.25 + 0.05 * tokens

const parseSaved = (text: string | undefined): number[] | undefined => {
  if (text === undefined) return undefined
  try {
    const saved: unknown = JSON.parse(text)
    return Array.isArray(saved) ? saved : undefined
  } catch {
    return undefined // the text of another release: learn anew
  }
}

/** `saved` is a text by `toText`; one that is not understood counts as nothing learnt. */
export const createTokenRatio = (saved?: string): TokenRatio => {
  const regression = createRegression(priors, parseSaved(saved))
  const doubted = new Float64Array(priors.length)
  return {
    weights: regression.weights,
    spread(seen) {
      doubted.set(seen)
      for (const feature of UNDOUBTED) doubted[feature] = 0
      return Math.sqrt(regression.variance(doubted))
    },
    learn({ seen }, evalCount, naturalEnd) {
      const tokens = naturalEnd ? evalCount - 1 : evalCount
      if (!(tokens >= 1) || !Number.isFinite(tokens) || seen.every(count => count === 0)) return
      regression.learn(seen, tokens, noiseOf(tokens))
    },
    toText: () => JSON.stringify(regression.toNumbers()),
  }
}

/** Scratch of one synchronous call. */
const shape = { words: 0, wide: 0, astral: 0 }

/** How many words a piece has, and how many characters of three and of four bytes. */
const shapeOf = (piece: string) => {
  shape.words = 0
  shape.wide = shape.astral = 0
  let inWord = false
  for (let i = 0; i < piece.length; i++) {
    const unit = piece.charCodeAt(i)
    const wasInWord = inWord
    inWord = unit > 0x20
    if (inWord && !wasInWord) shape.words++
    if (unit < 0x800) continue
    if (unit >= 0xd800 && unit < 0xdc00) shape.astral++
    else if (unit < 0xdc00 || unit >= 0xe000) shape.wide++
  }
  return shape
}

class Counter implements CompletionCounter {
  readonly seen = new Float64Array(priors.length)
  readonly #ratio: Pick<TokenRatio, 'weights' | 'spread'>
  readonly #weights: Float64Array
  /** Whether anything came that not every model puts into the same number of tokens. */
  #doubtful = false
  #count = 0
  #tokens = 0
  #thinkingTokens = 0

  constructor(ratio: Pick<TokenRatio, 'weights' | 'spread'>) {
    this.#ratio = ratio
    this.#weights = ratio.weights
  }

  get count() {
    return this.#count
  }

  get doubt() {
    if (!this.#doubtful) return 0
    const most = Math.ceil(this.#tokens + DOUBT * this.#ratio.spread(this.seen))
    return Math.max(0, most - this.#count)
  }

  get reasoning() {
    return Math.min(this.#count, Math.round(this.#thinkingTokens))
  }

  note(line: Line): number {
    const message = line.message
    const text = message === undefined ? line.response : message.content
    const thinking = message === undefined ? line.thinking : message.thinking
    const calls = message === undefined ? undefined : message.tool_calls
    let worth = 0
    let thought = 0
    let something = false
    const wasDoubtful = this.#doubtful
    if (thinking !== undefined && thinking !== '') {
      something = true
      if (this.seen[THINKING_BEGUN] === 0) thought += this.#takeDoubtful(THINKING_BEGUN, 1)
      thought += this.#takePiece(thinking)
    }
    if (text !== undefined && text !== '') {
      something = true
      thought += this.#takeThinkingEnd()
      worth += this.#takePiece(text)
    }
    if (calls !== undefined && calls.length > 0) {
      something = true
      thought += this.#takeThinkingEnd()
      for (const call of calls) worth += this.#takeToolCall(call)
    }
    worth += thought
    const exact = line.logprobs === undefined ? 0 : line.logprobs.length
    if (exact > 0) {
      something = true
      thought = worth === 0 ? 0 : (exact * thought) / worth
      worth = exact
      this.#doubtful = wasDoubtful
    }
    if (!something) return 0
    this.#tokens += worth
    this.#thinkingTokens += thought
    const given = Math.max(1, Math.round(this.#tokens)) - this.#count
    this.#count += given
    return given
  }

  #take(feature: number, amount: number): number {
    this.seen[feature] = (this.seen[feature] as number) + amount
    return amount * (this.#weights[feature] as number)
  }

  /** What not every model puts into the same number of tokens. */
  #takeDoubtful(feature: number, amount: number): number {
    this.#doubtful = true
    return this.#take(feature, amount)
  }

  #takePiece(piece: string): number {
    const bytes = utf8Bytes(piece)
    if (bytes > SHORT_PIECE_BYTES) return this.#takeDoubtful(LONG_BYTE, bytes)
    const { words, wide, astral } = shapeOf(piece)
    if (astral > 0) return this.#takeDoubtful(FOUR_BYTES, astral)
    if (wide === 1) return this.#takeDoubtful(THREE_BYTES, 1)
    const worth = this.#take(SHORT_PIECE, 1) + this.#take(SHORT_BYTE, bytes)
    return words > 1 ? worth + this.#takeDoubtful(FURTHER_WORD, words - 1) : worth
  }

  #takeThinkingEnd(): number {
    return this.seen[THINKING_BEGUN] === 1 && this.seen[THINKING_ENDED] === 0
      ? this.#takeDoubtful(THINKING_ENDED, 1)
      : 0
  }

  #takeToolCall(call: OllamaToolCall): number {
    const bytes = utf8Bytes(call.function.name) + utf8Bytes(JSON.stringify(call.function.arguments))
    return this.#takeDoubtful(TOOL_CALL, 1) + this.#takeDoubtful(TOOL_BYTE, bytes)
  }
}

export const createCompletionCounter = (ratio: Pick<TokenRatio, 'weights' | 'spread'>): CompletionCounter =>
  new Counter(ratio)
