/**
 * The vocabulary of scripted answers: what a test makes the simulated Ollama say, step by step, without sleeping.
 * A script without an ending step (`done`, `end`, `errorLine`, `garbage`, `reset`, `truncate`, `stall`, `status`) ends
 * with `done()`.
 */
import type { Exchange } from './exchange.ts'
import type { Json } from './json.ts'
import type { DoneFields, Speaker, ToolCall } from './speaker.ts'

export type Step =
  | { kind: 'say' | 'think'; text: string; tokens: number }
  | { kind: 'toolCall'; call: ToolCall; tokens: number }
  | { kind: 'line'; value: unknown; tokens: number }
  | { kind: 'raw'; data: string | Uint8Array }
  | { kind: 'pause'; name: string }
  | { kind: 'done'; fields: DoneFields }
  | { kind: 'errorLine'; text: string }
  | { kind: 'status'; status: number; body: string | Json; headers: Record<string, string> }
  | { kind: 'reset' | 'truncate' | 'end' | 'garbage' | 'stall' | 'bytewise' | 'unlimited' }

/** One line of text worth `tokens` (a delta may hold several). */
export const say = (text: string, tokens = 1): Step => ({ kind: 'say', text, tokens })

/** One line of thinking. */
export const think = (text: string, tokens = 1): Step => ({ kind: 'think', text, tokens })

/** One line with a tool call. `id` is made up when missing; null sends none, as some releases do. */
export const toolCall = (
  call: { name: string; arguments?: Record<string, unknown>; id?: string | null; index?: number },
  tokens = 1,
): Step => ({
  kind: 'toolCall',
  call: {
    ...(call.id === null ? {} : { id: call.id ?? 'call_a1b2c3d4' }),
    function: { index: call.index ?? 0, name: call.name, arguments: call.arguments ?? {} },
  },
  tokens,
})

/** A line exactly as given, not counted unless told. Asked for a plain answer it is the whole body, and the end. */
export const line = (value: unknown, tokens = 0): Step => ({ kind: 'line', value, tokens })

/** Bytes into the body as they are, one HTTP chunk. */
export const raw = (data: string | Uint8Array): Step => ({ kind: 'raw', data })

/** Waits until the test calls `resume(name)`; the test waits for this with `reached(name)`. */
export const pause = (name = ''): Step => ({ kind: 'pause', name })

/**
 * The last line. By default its counts are true: `prompt` from the tokenizer (tokens.ts), `completion` one more than the
 * tokens said, `reason` 'stop', durations measured. Other keys go on the line as they stand (`eval_duration`, `message`,
 * `context`, …); null leaves a field away, and so does 0, as in Ollama.
 */
export const done = (fields: DoneFields = {}): Step => ({ kind: 'done', fields })

/** `{"error": text}` and a regular end of the body; asked for a plain answer: a 500. */
export const errorLine = (
  text = 'an error was encountered while running the model: unexpected EOF',
): Step => ({
  kind: 'errorLine',
  text,
})

/** Answers with this status instead of a stream. Only before anything was said. */
export const status = (
  status: number,
  body: string | Json = { error: `simulated ${status}` },
  headers: Record<string, string> = {},
): Step => ({ kind: 'status', status, body, headers })

/** Resets the connection (RST); as the first step before any header. */
export const reset = (): Step => ({ kind: 'reset' })
/** Closes the connection (FIN) in the middle of a line, inside an HTTP chunk. */
export const truncate = (): Step => ({ kind: 'truncate' })
/** A regular end of the body without a `done` line, as after the repetition guard. */
export const end = (): Step => ({ kind: 'end' })
/** A line that is not JSON, then a regular end of the body. */
export const garbage = (): Step => ({ kind: 'garbage' })
/** Says nothing more and stays connected until the client leaves. */
export const stall = (): Step => ({ kind: 'stall' })
/** From here on one byte a write, HTTP framing included. */
export const bytewise = (): Step => ({ kind: 'bytewise' })
/** Ignores `num_predict`: a model that says more than it was asked for. */
export const unlimited = (): Step => ({ kind: 'unlimited' })

/** Where scripts wait for tests, and tests for scripts. */
export const createGates = () => {
  type Waiting = { name: string; go: () => void }
  type Watcher = { name: string; count: number; tell: () => void }
  let waiting: Waiting[] = []
  let watchers: Watcher[] = []
  const credits = new Map<string, number>()
  const at = (name: string) => waiting.filter(one => one.name === name)

  return {
    arrive: (name: string): Promise<void> => {
      const credit = credits.get(name) ?? 0
      if (credit > 0) {
        credits.set(name, credit - 1)
        return Promise.resolve()
      }
      return new Promise(go => {
        waiting.push({ name, go })
        const count = at(name).length
        const ready = watchers.filter(one => one.name === name && count >= one.count)
        watchers = watchers.filter(one => !ready.includes(one))
        for (const { tell } of ready) tell()
      })
    },
    resume(name: string) {
      const going = at(name)
      if (going.length === 0) credits.set(name, (credits.get(name) ?? 0) + 1)
      waiting = waiting.filter(one => one.name !== name)
      for (const { go } of going) go()
    },
    reached: (name: string, count: number): Promise<void> =>
      new Promise(tell => {
        if (at(name).length >= count) tell()
        else watchers.push({ name, count, tell })
      }),
  }
}

export type Gates = ReturnType<typeof createGates>

/** Plays a script; one without an ending leaves it to the caller to end the answer. */
export const play = async (steps: readonly Step[], speaker: Speaker, exchange: Exchange, gates: Gates) => {
  for (const step of steps) {
    if (speaker.ended() || exchange.over) return
    if (step.kind === 'say') speaker.say({ content: step.text }, step.tokens)
    else if (step.kind === 'think') speaker.say({ thinking: step.text }, step.tokens)
    else if (step.kind === 'toolCall') speaker.say({ toolCall: step.call }, step.tokens)
    else if (step.kind === 'line') speaker.line(step.value, step.tokens)
    else if (step.kind === 'raw') speaker.bytes(step.data)
    else if (step.kind === 'pause') await gates.arrive(step.name)
    else if (step.kind === 'done') speaker.done(step.fields)
    else if (step.kind === 'errorLine') speaker.error(step.text)
    else if (step.kind === 'status') speaker.status(step.status, step.body, step.headers)
    else if (step.kind === 'bytewise') exchange.bytewise()
    else if (step.kind === 'unlimited') speaker.unlimited()
    else speaker[step.kind]()
  }
}
