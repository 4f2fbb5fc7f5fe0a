/**
 * Every field of a chat request and what becomes of it. The documentation's table is made from this one, and so is
 * the header that tells a client what was ignored.
 */
import { ollamaSampling } from './sampling.ts'

export type Field = {
  name: string
  /** Begins with `translated`, `honoured` (by the proxy itself), `refused` or `ignored`. */
  treatment: string
}

const noCounterpart = 'ignored: Ollama has no counterpart'
const privileged = 'ignored: it would go round limits, or reload or pin a model for everybody'

export const chatFields: readonly Field[] = [
  { name: 'model', treatment: 'translated to `model`' },
  { name: 'messages', treatment: 'translated to `messages`, one for one; 1 to 2048' },
  { name: 'temperature', treatment: 'translated to `options.temperature`' },
  { name: 'top_p', treatment: 'translated to `options.top_p`' },
  { name: 'frequency_penalty', treatment: 'translated to `options.frequency_penalty`' },
  { name: 'presence_penalty', treatment: 'translated to `options.presence_penalty`' },
  { name: 'max_completion_tokens', treatment: 'translated to `options.num_predict`; 0 and less mean absent' },
  {
    name: 'max_tokens',
    treatment: 'translated to `options.num_predict` unless `max_completion_tokens` is there',
  },
  { name: 'n', treatment: 'honoured: so many runs one after another, summed in `usage`; 1 to 128' },
  { name: 'stop', treatment: 'translated to `options.stop`, without empty strings' },
  { name: 'seed', treatment: 'translated to `options.seed`' },
  { name: 'logprobs', treatment: 'translated to `logprobs`' },
  { name: 'top_logprobs', treatment: 'translated to `top_logprobs`; refused without `logprobs`' },
  { name: 'logit_bias', treatment: "ignored: its token ids are those of OpenAI's tokenizers" },
  { name: 'stream', treatment: 'honoured: server-sent events or one JSON object' },
  { name: 'stream_options', treatment: 'honoured: `include_usage`; without `stream` it has no effect' },
  { name: 'stream_options.include_obfuscation', treatment: 'ignored: chunks are never padded' },
  { name: 'response_format', treatment: 'translated to `format`: nothing, `"json"` or the schema' },
  {
    name: 'tools',
    treatment: 'translated to `tools`, their schemas flattened; custom tools of free text as functions',
  },
  { name: 'tools.function.strict', treatment: 'ignored: Ollama does not hold arguments to the schema' },
  {
    name: 'tool_choice',
    treatment: 'honoured by offering fewer tools (none, a named one, `allowed_tools`); `required` is ignored',
  },
  { name: 'parallel_tool_calls', treatment: 'honoured: `false` keeps the first call of an answer' },
  {
    name: 'functions',
    treatment: 'translated to `tools` unless `tools` is there; the answer has `function_call`',
  },
  { name: 'function_call', treatment: 'honoured as `tool_choice` where `functions` are used' },
  { name: 'reasoning_effort', treatment: 'translated to `think`; ignored by models that do not think' },
  { name: 'verbosity', treatment: noCounterpart },
  { name: 'modalities', treatment: 'refused when it asks for audio' },
  { name: 'audio', treatment: noCounterpart },
  { name: 'prediction', treatment: 'ignored: the answer is the same without it' },
  { name: 'service_tier', treatment: 'ignored; the answer says `default`' },
  { name: 'store', treatment: 'ignored: answers are not stored' },
  { name: 'metadata', treatment: 'ignored: answers are not stored' },
  { name: 'user', treatment: 'ignored: requests are counted by the user of the key' },
  { name: 'safety_identifier', treatment: 'ignored: requests are counted by the user of the key' },
  { name: 'prompt_cache_key', treatment: noCounterpart },
  { name: 'prompt_cache_retention', treatment: noCounterpart },
  { name: 'prompt_cache_options', treatment: noCounterpart },
  { name: 'moderation', treatment: 'ignored: nothing is moderated' },
  { name: 'web_search_options', treatment: noCounterpart },
  { name: 'messages.name', treatment: "ignored; on a tool's result it names the tool" },
  { name: 'image_url.detail', treatment: noCounterpart },
  {
    name: 'reasoning',
    treatment: 'translated to `think` by its `effort`, unless `reasoning_effort` is there',
  },
  { name: 'think', treatment: 'translated to `think`, unless an effort is there' },
  { name: 'format', treatment: 'translated to `format`, unless `response_format` is there' },
  { name: 'options', treatment: 'translated to `options`: sampling options only' },
  ...Object.keys(ollamaSampling).map(name => ({ name, treatment: `translated to \`options.${name}\`` })),
  ...[
    'keep_alive',
    'truncate',
    'shift',
    'raw',
    'template',
    '_debug_render_only',
    'options.num_predict',
    'options.num_ctx',
    'options.num_batch',
    'options.num_gpu',
    'options.main_gpu',
    'options.use_mmap',
    'options.num_thread',
  ].map(name => ({ name, treatment: privileged })),
]

const effective = new Set(
  chatFields.filter(field => !field.treatment.startsWith('ignored')).map(field => field.name),
)

const isEmpty = (value: object) => (Array.isArray(value) ? value.length : Object.keys(value).length) === 0

/** Values that ask for what happens anyway. */
const neutral: Record<string, readonly unknown[]> = {
  store: [false],
  service_tier: ['auto', 'default'],
  verbosity: ['medium'],
}

const saysNothing = (name: string, value: unknown): boolean => {
  if (value === undefined || value === null || value === '') return true
  if (typeof value === 'object' && isEmpty(value)) return true
  return Object.hasOwn(neutral, name) && neutral[name]?.includes(value) === true
}

/** The fields of a body that were sent, say something, and have no effect; unknown ones among them. */
export const ignoredFields = (body: Record<string, unknown>): string[] =>
  Object.keys(body).filter(name => !effective.has(name) && !saysNothing(name, body[name]))

const namesMax = 32
const nameLengthMax = 64

/** Names fit for a header: clients invent them, so they may hold anything and be any number. */
export const toHeaderNames = (names: readonly string[]): string[] =>
  [...new Set(names.map(name => name.slice(0, nameLengthMax).replace(/[^A-Za-z0-9_.-]/g, '_')))].slice(
    0,
    namesMax,
  )
