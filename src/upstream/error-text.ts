/**
 * What Ollama says when it fails, taken apart (ollama-api.md §2.5, §2.6). Nothing of it may reach a client unread: it
 * holds server paths, addresses, Go's own words, and up to 8 KB of a crashed runner's output.
 */
export type UpstreamError = {
  message: string
  /** The runner's own error, which Ollama passes on as JSON inside its error string. */
  isNested: boolean
  /** The body was Ollama's JSON, not the plain text of an unknown route or of some other server. */
  isJson: boolean
  type: string | undefined
  promptTokens: number | undefined
  contextTokens: number | undefined
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null

const parseObject = (text: string): Record<string, unknown> | undefined => {
  if (!text.trimStart().startsWith('{')) return undefined
  try {
    const value: unknown = JSON.parse(text)
    return isObject(value) ? value : undefined
  } catch {
    return undefined
  }
}

const toCount = (value: unknown) => (typeof value === 'number' && value > 0 ? value : undefined)

/** Once for Ollama's own JSON, once more for the runner's inside it; deeper is not opened. */
export const readUpstreamError = (text: string): UpstreamError => {
  const outer = parseObject(text)
  const error = outer?.['error']
  const flat = typeof error === 'string' ? error : undefined
  const runner = flat === undefined ? error : (parseObject(flat)?.['error'] ?? parseObject(flat))
  const fields = isObject(runner) ? runner : undefined
  const message = fields?.['message']
  const type = fields?.['type']
  return {
    message: typeof message === 'string' ? message : (flat ?? text),
    isNested: fields !== undefined,
    isJson: outer !== undefined,
    type: typeof type === 'string' ? type : undefined,
    promptTokens: toCount(fields?.['n_prompt_tokens']),
    contextTokens: toCount(fields?.['n_ctx']),
  }
}

const logLengthMax = 2000
/** From here on such a text quotes what the model wrote, or what it was sent (ollama-api.md §2.8). */
const speech =
  /(raw=|tool call arguments for|error parsing tool call|prompt(?:=|:)|content(?:=|:)|Value looks like).*/is

/** Ollama's words for the log, bounded and without anything that a user or a model has said. */
export const toLogText = (text: string): string => text.replace(speech, '$1 …').slice(0, logLengthMax)

const reasonLengthMax = 200
/** Signs of something that is nobody's business outside: paths, addresses, hosts, digests, source code, Go values. */
const privateSigns = [
  /(?:^|[^\w#])[/\\~]/,
  /[a-z]:[/\\]/i,
  /:\/\//,
  /:\d{2,5}\b/,
  /\d+\.\d+\.\d+\.\d+/,
  /[0-9a-f]*:[0-9a-f]*:[0-9a-f:]*/i,
  /map\[/,
  /\.(?:go|cpp|cc|cu|h|so|dll|gguf|local|internal|lan|com|net|org|ai)\b/i,
  /[0-9a-f]{12,}/i,
  /\b(?:goroutine|panic|struct|unmarshal|dial|lookup|localhost)\b/i,
]

/**
 * The first line of a reason, if it reads like a sentence about the request: bounded, printable, and free of anything
 * that looks like a part of the server. Undefined otherwise; a rule that refuses too much costs a detail only.
 */
export const toPlainReason = (message: string): string | undefined => {
  const [line = ''] = message.trim().split('\n', 1)
  const plain = line
    .replace(/\p{C}/gu, ' ')
    .replace(/\s+/g, ' ')
    .replace(/[.\s]+$/, '')
  if (plain === '' || plain.length > reasonLengthMax || privateSigns.some(sign => sign.test(plain)))
    return undefined
  return plain
}
