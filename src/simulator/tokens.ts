/**
 * The tokenizer of the simulated models, simple enough to count by hand.
 *
 * Text: a run of up to eight letters, digits or non-ASCII characters is one token, any other visible character is one,
 * white space is free: `Hello, world!` is 4, `internationalization` is 3.
 * A chat prompt: 1 to open the answer, 2 for the frame of each message, its content, its thinking, its tool calls as
 * JSON, 256 for each image; the offered tools as JSON. So one user message `Hello, world!` costs 1 + 2 + 4 = 7.
 * A `/api/generate` prompt: 1 + the system text + the prompt + the suffix + 256 for each image.
 */
import { isList, isObject } from './json.ts'

const runMax = 8
export const imageTokens = 256

const isWord = (code: number) =>
  (code >= 48 && code <= 57) || (code >= 65 && code <= 90) || (code >= 97 && code <= 122) || code > 127

export const countTokens = (text: string): number => {
  let tokens = 0
  let run = 0
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index)
    if (isWord(code)) {
      if (run % runMax === 0) tokens++
      run++
    } else {
      run = 0
      if (code > 32) tokens++
    }
  }
  return tokens
}

const text = (value: unknown) => (typeof value === 'string' ? countTokens(value) : 0)
const json = (value: unknown) => (isList(value) && value.length > 0 ? countTokens(JSON.stringify(value)) : 0)
const images = (value: unknown) => (isList(value) ? value.length * imageTokens : 0)

/** What a request's prompt costs before it is cut to the context. */
export const countPrompt = (body: Record<string, unknown>): number => {
  if (!isList(body['messages'])) {
    return 1 + text(body['system']) + text(body['prompt']) + text(body['suffix']) + images(body['images'])
  }
  let tokens = 1 + json(body['tools'])
  for (const message of body['messages']) {
    if (!isObject(message)) continue
    tokens += 2 + text(message['content']) + text(message['thinking'])
    tokens += json(message['tool_calls']) + images(message['images'])
  }
  return tokens
}
