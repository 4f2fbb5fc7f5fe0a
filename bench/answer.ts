/**
 * Checks one answer of a steered model (src/simulator/steering.ts) token by token: order, payload, count, the end.
 *
 * Text is the answer's bytes as one-byte characters (latin1): decoding UTF-8 would cost more than the whole check, and
 * equal bytes are equal text.
 */
import { Buffer } from 'node:buffer'

/** `ollama`: lines of NDJSON, or its one object; `openai`: events, or its one object. */
export type Dialect = 'ollama' | 'openai'

/** A token is its number, `@`, the microsecond it was made, and one of these. */
const payloads = [' the', ' model', ' says\n', ' "q"', ' café', ' <b>', ' back\\slash', ' 日本'].map(
  text => ({
    bytes: Buffer.from(text).toString('latin1'),
    // Servers may write other characters than ASCII as \u escapes, which come out as the characters themselves.
    characters: text,
  }),
)

const CONTENT = '"content":"'
const BACKSLASH = 92

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : [])

/** The first choice's text (or the line's), and how the answer ended as far as this part says. */
const readOllama = (value: Record<string, unknown>) => {
  const message = value['message']
  return { content: isObject(message) ? message['content'] : undefined, finished: value['done'] === true }
}

const readOpenAi = (value: Record<string, unknown>) => {
  const choice = list(value['choices'])[0]
  if (!isObject(choice)) return { content: undefined, finished: false }
  const message = choice['delta'] ?? choice['message']
  const reason = choice['finish_reason']
  return {
    content: isObject(message) ? message['content'] : undefined,
    finished: reason !== null && reason !== undefined,
  }
}

export type AnswerCheck = {
  /** The next part of the body. */
  push(text: string): void
  /** The body is over: what was wrong with the answer, or undefined. */
  end(): string | undefined
}

export const createAnswerCheck = (expected: {
  dialect: Dialect
  stream: boolean
  tokens: number
  /** Called for each right token with the microsecond it was made. */
  onToken: (madeUs: number) => void
}): AnswerCheck => {
  const { dialect, stream, tokens, onToken } = expected
  const read = dialect === 'ollama' ? readOllama : readOpenAi
  let fault: string | undefined
  let next = 0
  let finished = false
  let saidDone = false
  let rest = ''
  let before = ''
  let after = ''

  const fail = (sentence: string) => {
    fault ??= sentence
  }

  const countTokens = (content: string) => {
    if (finished && content !== '') fail('text after the end')
    for (let at = 0; at < content.length; ) {
      const number = `${next}@`
      if (!content.startsWith(number, at))
        return fail(`token ${next} expected, but came: ${content.slice(at, at + 40)}`)
      at += number.length
      let madeUs = 0
      for (let code = content.charCodeAt(at); code >= 48 && code <= 57; code = content.charCodeAt(++at))
        madeUs = madeUs * 10 + code - 48
      const { bytes = '', characters = '' } = payloads[next & 7] ?? {}
      const payload = content.startsWith(bytes, at) ? bytes : characters
      if (!content.startsWith(payload, at))
        return fail(`token ${next} has another payload: ${content.slice(at, at + 40)}`)
      at += payload.length
      next++
      onToken(madeUs)
    }
  }

  const readPart = (json: string) => {
    let value: unknown
    try {
      value = JSON.parse(json)
    } catch {
      return fail(`not JSON: ${json.slice(0, 80)}`)
    }
    if (!isObject(value)) return fail(`not an object: ${json.slice(0, 80)}`)
    if (value['error'] !== undefined) return fail(`an error: ${json.slice(0, 200)}`)
    const part = read(value)
    if (typeof part.content === 'string') countTokens(part.content)
    if (part.finished && finished) fail('ended twice')
    finished ||= part.finished
  }

  /**
   * Lines of one answer differ in their text only, so what stands before and after it is learnt from the first and the
   * text alone is parsed from then on: 0.28 µs a token instead of 0.49. Any other line is parsed whole.
   */
  const readText = (json: string): boolean => {
    if (before === '') {
      const at = json.indexOf(CONTENT)
      const end = json.indexOf('"', at + CONTENT.length)
      // The number and the moment of a token have no quotation mark; its payload may, and then the next line is tried.
      if (at < 0 || json.charCodeAt(end - 1) === BACKSLASH) return false
      before = json.slice(0, at + CONTENT.length)
      after = json.slice(end)
      return false
    }
    if (!json.startsWith(before) || !json.endsWith(after)) return false
    const text = json.slice(before.length, json.length - after.length)
    if (!text.includes('\\') && !text.includes('"')) countTokens(text)
    else {
      try {
        countTokens(JSON.parse(`"${text}"`))
      } catch {
        return false
      }
    }
    return true
  }

  const readEvent = (json: string) => {
    if (!readText(json)) readPart(json)
  }

  const readLine = (line: string) => {
    if (saidDone && line !== '') return fail(`something after [DONE]: ${line.slice(0, 80)}`)
    if (dialect === 'ollama') return line === '' ? undefined : readEvent(line)
    if (!line.startsWith('data:'))
      return line === '' || line.startsWith(':') ? undefined : fail(`not an event: ${line.slice(0, 80)}`)
    const data = line.slice(line.startsWith('data: ') ? 6 : 5)
    if (data.trim() !== '[DONE]') return readEvent(data)
    saidDone = true
  }

  return {
    push(text) {
      rest = rest === '' ? text : rest + text
      if (!stream) return
      let from = 0
      for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n', from)) {
        readLine(rest.slice(from, rest.charCodeAt(end - 1) === 13 ? end - 1 : end))
        from = end + 1
      }
      rest = rest.slice(from)
    },
    end() {
      if (!stream) readPart(rest)
      else if (rest !== '') fail(`an unfinished line: ${rest.slice(0, 80)}`)
      if (next !== tokens) fail(`${next} tokens of ${tokens}`)
      if (!finished) fail('no end of the answer')
      if (stream && dialect === 'openai' && !saidDone) fail('no [DONE]')
      return fault
    },
  }
}
