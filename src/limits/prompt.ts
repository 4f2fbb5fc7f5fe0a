/**
 * What a prompt is made of, as far as its number of tokens depends on it.
 *
 * A byte-pair tokenizer turns a usual word into one token, a long or rare one into several, digits into groups, Chinese
 * into about a token a character. So characters are counted by what they are and by where in a run they stand (the
 * first letter of a word, the seventh, …); one pass, one table look-up a UTF-16 unit, whatever the script.
 */
import type { OllamaChatRequest, OllamaEmbedRequest, OllamaGenerateRequest } from '../wire/ollama.ts'
import type { Prior } from './regression.ts'
import { utf8Bytes } from './utf8.ts'

/** The numbers a prompt's estimate is made from; made by `measurePrompt`, read by the estimator. */
export type PromptFeatures = {
  /** In the order of `promptPriors`. */
  readonly counts: Float64Array
  /** Prompts that Ollama evaluates: 1, or the inputs of an embedding. */
  readonly prompts: number
  /** A `format` was asked for: a thinking model may then run twice and report the second run only. */
  readonly constrained: boolean
}

// Kinds of UTF-16 units.
const LOWER = 0
const UPPER = 1
const DIGIT = 2
const SPACE = 3
const PUNCTUATION = 4
const LATIN = 5
const ALPHABET = 6
const CJK = 7
const SYMBOL = 8
const SURROGATE = 9
const KINDS = 16

// States: what the last unit was, and for letters, white space and punctuation how far into the run it stands. Letters
// take the states 0 (none yet) to 12, then:
const LETTERS = 12
const CAPITAL = 13
const FIRST_SPACE = 14
const MORE_SPACE = 15
const FIRST_PUNCTUATION = 16
const MORE_PUNCTUATION = 17
const OTHERS = 18
const STATES = OTHERS + KINDS

/**
 * The features, with the tokens that one of each usually is: means lean to the high side of the tokenizers of Llama,
 * Qwen, Gemma, Mistral and gpt-oss; the spread covers the rest, and one token a byte after a few observations.
 */
const features = {
  template: { mean: 12, sd: 25 },
  message: { mean: 5, sd: 4 },
  wordStart: { mean: 0.95, sd: 0.35 },
  wordInner: { mean: 0.05, sd: 0.08 },
  wordTail: { mean: 0.2, sd: 0.12 },
  accentedLetter: { mean: 0.03, sd: 0.06 },
  technicalLetter: { mean: 0.01, sd: 0.06 },
  capital: { mean: 0.3, sd: 0.2 },
  digit: { mean: 0.6, sd: 0.35 },
  firstSpace: { mean: 0.03, sd: 0.1 },
  moreSpace: { mean: 0.15, sd: 0.15 },
  firstPunctuation: { mean: 0.7, sd: 0.3 },
  morePunctuation: { mean: 0.45, sd: 0.3 },
  latin: { mean: 0.6, sd: 0.4 },
  alphabet: { mean: 0.45, sd: 0.25 },
  cjk: { mean: 0.85, sd: 0.4 },
  symbolByte: { mean: 0.6, sd: 0.4 },
  toolByte: { mean: 0.28, sd: 0.12 },
  thinkingUnit: { mean: 0.15, sd: 0.2 },
  image: { mean: 768, sd: 500 },
} as const satisfies Record<string, Prior>

type Feature = keyof typeof features
const names = Object.keys(features) as Feature[]
export const promptPriors: readonly Prior[] = Object.values(features)
const at = Object.fromEntries(names.map((name, index) => [name, index])) as Record<Feature, number>

const kindOf = (unit: number): number => {
  if (unit < 0x80) {
    if (unit >= 0x61 && unit <= 0x7a) return LOWER
    if (unit >= 0x41 && unit <= 0x5a) return UPPER
    if (unit >= 0x30 && unit <= 0x39) return DIGIT
    return unit <= 0x20 || unit === 0x7f ? SPACE : PUNCTUATION
  }
  if (unit < 0x250) return LATIN
  if (unit < 0x800) return ALPHABET
  if (unit >= 0x1e00 && unit < 0x1f00) return LATIN
  if (unit >= 0xd800 && unit < 0xe000) return SURROGATE
  // Kana, hangul, ideographs, and their punctuation and full-width forms.
  if (unit >= 0x2e80 && unit < 0xd7b0) return CJK
  if ((unit >= 0xf900 && unit < 0xfb00) || (unit >= 0xff00 && unit < 0xfff0)) return CJK
  // From Devanagari to Tibetan and beyond: alphabets of three bytes a letter.
  return unit < 0x2000 ? CJK : SYMBOL
}

const kinds = Uint8Array.from({ length: 0x10000 }, (_, unit) => kindOf(unit))

const stateAfter = (state: number, kind: number): number => {
  const inWord = state >= 1 && state <= LETTERS
  switch (kind) {
    case LOWER:
      if (inWord) return Math.min(LETTERS, state + 1)
      return state === CAPITAL || state === OTHERS + LATIN ? 2 : 1
    case UPPER:
      return state === 1 || state === CAPITAL ? CAPITAL : 1
    case SPACE:
      return state === FIRST_SPACE || state === MORE_SPACE ? MORE_SPACE : FIRST_SPACE
    case PUNCTUATION:
      return state === FIRST_PUNCTUATION || state === MORE_PUNCTUATION ? MORE_PUNCTUATION : FIRST_PUNCTUATION
    default:
      return OTHERS + kind
  }
}

const nextState = Uint8Array.from({ length: STATES * KINDS }, (_, index) =>
  stateAfter(index >> 4, index & 15),
)

/** Scratch of one synchronous call. */
const seen = new Uint32Array(STATES)

const scan = (text: string) => {
  let state = 0
  for (let i = 0; i < text.length; i++) {
    state = nextState[(state << 4) | (kinds[text.charCodeAt(i)] as number)] as number
    seen[state] = (seen[state] as number) + 1
  }
}

const seenFrom = (first: number, last: number): number => {
  let sum = 0
  for (let state = first; state <= last; state++) sum += seen[state] ?? 0
  return sum
}

/**
 * Adds one text's counts. A tokenizer made for English takes more tokens for the same letters of another language and
 * of code; accents and the density of punctuation tell how much of the text is such, from 0 to 1.
 */
const addText = (counts: Float64Array, text: string) => {
  seen.fill(0)
  scan(text)
  const add = (feature: Feature, count: number) => {
    const index = at[feature]
    counts[index] = (counts[index] ?? 0) + count
  }
  const letters = seenFrom(1, CAPITAL)
  const latin = seenFrom(OTHERS + LATIN, OTHERS + LATIN)
  const digits = seenFrom(OTHERS + DIGIT, OTHERS + DIGIT)
  const marks = digits + seenFrom(FIRST_PUNCTUATION, MORE_PUNCTUATION)
  add('wordStart', seenFrom(1, 1))
  add('wordInner', seenFrom(2, 6))
  add('wordTail', seenFrom(7, LETTERS))
  add('capital', seenFrom(CAPITAL, CAPITAL))
  if (letters > 0) {
    add('accentedLetter', letters * Math.min(1, (50 * latin) / letters))
    add('technicalLetter', letters * Math.min(1, Math.max(0, (6 * marks) / (letters + marks) - 0.3)))
  }
  add('firstSpace', seenFrom(FIRST_SPACE, FIRST_SPACE))
  add('moreSpace', seenFrom(MORE_SPACE, MORE_SPACE))
  add('firstPunctuation', seenFrom(FIRST_PUNCTUATION, FIRST_PUNCTUATION))
  add('morePunctuation', seenFrom(MORE_PUNCTUATION, MORE_PUNCTUATION))
  add('digit', digits)
  add('latin', latin)
  add('alphabet', seenFrom(OTHERS + ALPHABET, OTHERS + ALPHABET))
  add('cjk', seenFrom(OTHERS + CJK, OTHERS + CJK))
  add(
    'symbolByte',
    3 * seenFrom(OTHERS + SYMBOL, OTHERS + SYMBOL) + 2 * seenFrom(OTHERS + SURROGATE, STATES - 1),
  )
}

/**
 * Measures what the request's prompt is made of: linear in its text, nothing is copied.
 * `format` is not part of it: Ollama turns it into a grammar and adds nothing to the prompt (ollama-api.md §8, 20).
 */
export const measurePrompt = (
  request: OllamaChatRequest | OllamaGenerateRequest | OllamaEmbedRequest,
): PromptFeatures => {
  const counts = new Float64Array(names.length)
  let prompts = 1
  let messages = 1
  let thinking = 0
  let toolBytes = 0
  let images = 0
  if ('messages' in request) {
    messages = request.messages.length
    for (const message of request.messages) {
      addText(counts, message.content)
      if (message.thinking !== undefined) thinking += message.thinking.length
      if (message.images !== undefined) images += message.images.length
      if (message.tool_calls !== undefined) toolBytes += utf8Bytes(JSON.stringify(message.tool_calls))
    }
    if (request.tools !== undefined && request.tools.length > 0)
      toolBytes += utf8Bytes(JSON.stringify(request.tools))
  } else if ('input' in request) {
    messages = prompts = request.input.length
    for (const text of request.input) addText(counts, text)
  } else {
    addText(counts, request.prompt)
    if (request.suffix !== undefined) addText(counts, request.suffix)
  }
  counts[at.template] = 'input' in request || ('raw' in request && request.raw === true) ? 0 : 1
  counts[at.message] = messages
  counts[at.toolByte] = toolBytes
  counts[at.thinkingUnit] = thinking
  counts[at.image] = images
  return { counts, prompts, constrained: 'format' in request && request.format !== undefined }
}
