/**
 * Ollama's log probabilities → OpenAI's. Two things are put right (ollama-api §2.4). Ollama lists every token,
 * those of thinking, of tags and of tool calls included, where OpenAI lists the content's. And it derives `bytes`
 * from text, in which each byte of a split character has become U+FFFD; the content itself, whose characters are
 * whole, tells what those bytes were.
 */
import type { Line, OllamaLogprob } from './ollama.ts'
import type { Logprobs, TokenLogprob } from './openai.ts'

const utf8 = new TextEncoder()
const replacement = '\uFFFD'

/** Bytes by text alone: null when part of a character is missing. */
const bytesOf = (token: string): number[] | null =>
  token.includes(replacement) ? null : [...utf8.encode(token)]

/** Each token's bytes read off the content, a U+FFFD being one byte of it; undefined when they do not line up. */
const alignedBytes = (tokens: readonly string[], content: string): number[][] | undefined => {
  const bytes = utf8.encode(content)
  let at = 0
  const aligned = tokens.map(token => {
    const start = at
    for (const character of token) at += character === replacement ? 1 : utf8.encode(character).length
    return [...bytes.subarray(start, at)]
  })
  const decoder = new TextDecoder()
  // Only the replaced characters may differ from what the tokens say.
  const agrees = tokens.every(
    (token, index) =>
      token.includes(replacement) || decoder.decode(Uint8Array.from(aligned[index] ?? [])) === token,
  )
  return at === bytes.length && agrees ? aligned : undefined
}

const toToken = (
  { token, logprob, top_logprobs: top }: OllamaLogprob,
  bytes: number[] | null,
): TokenLogprob => ({
  token,
  logprob,
  bytes,
  top_logprobs: (top ?? []).map(one => ({
    token: one.token,
    logprob: one.logprob,
    bytes: bytesOf(one.token),
  })),
})

const toLogprobs = (entries: readonly OllamaLogprob[], content: string): Logprobs => {
  const tokens = entries.map(entry => entry.token)
  const aligned = tokens.some(token => token.includes(replacement))
    ? alignedBytes(tokens, content)
    : undefined
  return {
    content: entries.map((entry, index) => toToken(entry, aligned?.[index] ?? bytesOf(entry.token))),
    refusal: null,
  }
}

export interface LogprobReader {
  /** The log probabilities of this line's content; undefined when it has none to show. */
  read(line: Line, content: string): Logprobs | undefined
}

/**
 * For one run. Lines with log probabilities and no text hold tokens that a parser keeps back: tags, a tool call, or
 * text still to come. They are held, and shown only when content follows which its own tokens do not cover.
 */
export const createLogprobReader = (): LogprobReader => {
  let held: OllamaLogprob[] = []
  return {
    read(line, content) {
      const own = Array.isArray(line.logprobs) ? line.logprobs : []
      const { thinking, tool_calls: calls } = line.message ?? {}
      if (content === '') {
        const belongsElsewhere = (thinking !== undefined && thinking !== '') || calls !== undefined
        if (belongsElsewhere) held = []
        else held.push(...own)
        return undefined
      }
      const covered = own.reduce((length, entry) => length + entry.token.length, 0) >= content.length
      const entries = covered ? own : [...held, ...own]
      held = []
      return entries.length === 0 ? undefined : toLogprobs(entries, content)
    },
  }
}
