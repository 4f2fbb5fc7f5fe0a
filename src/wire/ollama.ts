/**
 * Ollama's native dialect: what `/api/chat`, `/api/generate` and `/api/embed` take and give (ollama-api.md §1–2).
 * Its request and its line are the meeting point of all dialects.
 */
export type OllamaOptions = Record<string, number | boolean | string | string[]>

export type OllamaToolCall = {
  id?: string
  function: { index?: number; name: string; arguments: Record<string, unknown> }
}

export type OllamaMessage = {
  role: string
  /** Always a string: an array of parts is a 400 at Ollama. */
  content: string
  thinking?: string
  /** Standard base64 with padding, no data-URL prefix. */
  images?: string[]
  tool_calls?: OllamaToolCall[]
  tool_name?: string
  tool_call_id?: string
}

type Common = {
  model: string
  /** We always stream, also for a plain answer: only a stream can be metered while it runs. */
  stream: true
  format?: 'json' | Record<string, unknown>
  think?: boolean | 'low' | 'medium' | 'high' | 'max'
  options?: OllamaOptions
  truncate?: boolean
  logprobs?: boolean
  top_logprobs?: number
}

export type OllamaChatRequest = Common & { messages: OllamaMessage[]; tools?: unknown[] }

export type OllamaGenerateRequest = Common & { prompt: string; suffix?: string; raw?: boolean }

export type OllamaEmbedRequest = { model: string; input: string[]; dimensions?: number; truncate?: boolean }

export type OllamaRequest = OllamaChatRequest | OllamaGenerateRequest | OllamaEmbedRequest
export type OllamaPath = '/api/chat' | '/api/generate' | '/api/embed'

export type OllamaLogprob = {
  token: string
  logprob: number
  bytes?: number[]
  top_logprobs?: { token: string; logprob: number; bytes?: number[] }[]
}

/** One line of an answer to `/api/chat` (text in `message`) or `/api/generate` (text in `response`). */
export type Line = {
  model?: string
  message?: { role?: string; content?: string; thinking?: string; tool_calls?: OllamaToolCall[] }
  response?: string
  thinking?: string
  done?: boolean
  done_reason?: string
  logprobs?: OllamaLogprob[]
  /** Nanoseconds; missing when zero; not always sane (`-9223372036854775808` was seen). */
  total_duration?: number
  load_duration?: number
  prompt_eval_count?: number
  prompt_eval_duration?: number
  eval_count?: number
  eval_duration?: number
  /** The one object of an answer to `/api/embed`. */
  embeddings?: number[][]
  /** A failing line has only this key; the status stays 200. */
  error?: string
}
