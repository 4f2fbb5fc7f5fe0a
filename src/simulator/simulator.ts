/**
 * A simulated Ollama over real HTTP and real sockets, for tests, the demo, the torture test and the benchmark.
 *
 * @example A scripted answer, no sleeping:
 * ```ts
 * const ollama = await startSimulator({ models: ['llama3.2'] })
 * ollama.next(say('Hel'), pause(), say('lo'), done({ prompt: 3, completion: 2 }))
 * const answer = fetch(`${ollama.url}/api/chat`, {
 *   method: 'POST',
 *   body: JSON.stringify({ model: 'llama3.2', messages: [{ role: 'user', content: 'Hi' }] }),
 * })
 * await ollama.reached()                         // 'Hel' is written, the script stands at the pause
 * ollama.resume()
 * expect(await (await answer).text()).toContain('"content":"lo"')
 * const [received] = ollama.generating()         // what Ollama saw of it
 * expect(received?.body['model']).toBe('llama3.2')
 * expect(await received?.closed).toBe('done')    // or 'hung up', or 'fault:reset', …
 * await ollama.close()
 * ```
 *
 * Who answers a generating request, first match: a script or recording queued by `next`, `nextAt`, `replay` · the standing
 * script of `forModel` · the recordings of `replayAll` · the script of `otherwise` · the model itself (`behaviour.ts`,
 * or `steering.ts` for names like `fake-c100-i20`), after Ollama's own checks: unknown model 404, missing capability 400.
 * Scripts answer whatever the model's name is, and honour `num_predict` unless they say `unlimited()`.
 */
import { fileURLToPath } from 'node:url'
import { type FaultKind, faultKinds } from './behaviour.ts'
import { type Catalogue, canonicalName, createCatalogue, type ModelSpec } from './catalogue.ts'
import { createEndpoints } from './endpoints.ts'
import type { Exchange } from './exchange.ts'
import { listen } from './http.ts'
import { createJournal, type LogEntry, type Stats, toStats } from './journal.ts'
import { isGenerating, type Received, receive } from './received.ts'
import {
  findRecording,
  listCases,
  type Recording,
  type ReplayOptions,
  readCase,
  recordedCounts,
  serveRecording,
} from './replay.ts'
import { createGates, play, type Step } from './script.ts'
import { countPrompt } from './tokens.ts'
import { createWheel } from './wheel.ts'

export type SimulatorOptions = {
  hostname?: string
  /** Default: a free one. */
  port?: number
  /** Default: demo, thinker, tooler, lumpy, embedder. A bare name is a talker that has tools and vision. */
  models?: readonly (string | ModelSpec)[]
  /** Pause before each token of the canned models; default 0. */
  msPerToken?: number
  /** Breaks generated answers of canned models with this probability, in an order given by the seed. */
  faults?: { probability: number; seed?: number; kinds?: readonly FaultKind[] }
  version?: string
  /** The folder of recordings; default: this repository's. */
  recordings?: string
  /** How many received requests are remembered; default 10,000, 0 for a long-running process. */
  keepRequests?: number
  /** How many entries the log keeps; default 200,000. */
  keepLog?: number
}

export type Simulator = {
  url: string
  port: number
  /** Everything received, `/__log` and `/__stats` excepted; oldest first. */
  requests: Received[]
  /** The requests to `/api/chat` and `/api/generate` that ask for an answer. */
  generating: () => Received[]
  /** Resolves with the first `count` generating requests as soon as they have arrived. */
  arrived: (count?: number) => Promise<Received[]>

  /** Queues a script for the next generating request. */
  next: (...steps: Step[]) => void
  /** Queues a script for the next request to this path, any endpoint (`/api/tags`, `/api/embed`); one that ends nothing (say, only a `pause()`) is followed by the regular answer. */
  nextAt: (path: string, ...steps: Step[]) => void
  /** The standing script of a model; adds the model where it is missing. */
  forModel: (name: string, ...steps: Step[]) => void
  /** The standing script of all other generating requests. */
  otherwise: (...steps: Step[]) => void
  /** Queues a recorded case, its steps one after another, each for the next request to its path. */
  replay: (name: string, options?: ReplayOptions) => void
  /** Answers every request that equals a recorded one (same model, messages or prompt, `stream`; best fit in the rest). */
  replayAll: (options?: ReplayOptions) => void

  /** Lets all scripts at this pause go on; when none is there, the next one will not wait. */
  resume: (name?: string) => void
  /** Resolves when `count` scripts stand at this pause. */
  reached: (name?: string, count?: number) => Promise<void>

  /** The catalogue: `add`, `remove`, `find` models while running. */
  catalogue: Catalogue
  /** The simulator's own account, as `GET /__log` gives it. */
  log: () => LogEntry[]
  stats: () => Stats
  /** Forgets scripts, standing scripts, replays and remembered requests; the log and the models stay. */
  clear: () => void
  /** Resets every connection and stops listening. */
  close: () => Promise<void>
}

type Queued = { path: string | undefined; steps: Step[] } | { recording: Recording; options: ReplayOptions }

export const startSimulator = async (options: SimulatorOptions = {}): Promise<Simulator> => {
  const recordingsRoot =
    options.recordings ?? fileURLToPath(new URL('../../tests/fixtures/captures', import.meta.url))
  const keepRequests = options.keepRequests ?? 10_000
  const catalogue = createCatalogue(options.models)
  const journal = createJournal(options.keepLog ?? 200_000)
  const wheel = createWheel()
  const gates = createGates()
  const now = Date.now

  const requests: Received[] = []
  let queue: Queued[] = []
  let standing = new Map<string, Step[]>()
  let fallback: Step[] | undefined
  let replays: { recordings: Recording[]; options: ReplayOptions } | undefined
  let arrivals: { count: number; tell: (found: Received[]) => void }[] = []

  const takeQueued = (received: Received): Queued | undefined => {
    const fits = (queued: Queued) => {
      if ('recording' in queued)
        return queued.recording.path === received.path && queued.recording.method === received.method
      return queued.path === undefined ? isGenerating(received) : queued.path === received.path
    }
    const candidates = queue.filter(fits)
    const first = candidates[0]
    if (first === undefined) return undefined
    const exact = candidates.find(
      one => 'recording' in one && Bun.deepEquals(one.recording.body, received.json),
    )
    const taken = 'recording' in first && exact !== undefined ? exact : first
    queue = queue.filter(one => one !== taken)
    return taken
  }

  const stats = () => toStats(journal, server)

  const endpoints = createEndpoints({
    catalogue,
    journal,
    wheel,
    version: options.version ?? '0.0.0',
    msPerToken: options.msPerToken ?? 0,
    faults: {
      probability: options.faults?.probability ?? 0,
      seed: options.faults?.seed ?? 1,
      kinds: options.faults?.kinds ?? faultKinds,
    },
    stats,
    now,
  })

  const playScript = async (received: Received, exchange: Exchange, steps: readonly Step[]) => {
    const entry = endpoints.enter(received, countPrompt(received.body))
    received.log = entry
    const speaker = endpoints.speakerFor(received, exchange, entry, [])
    endpoints.close(entry, exchange, speaker.how)
    received.delivered = () => ({
      lines: speaker.lines(),
      tokens: exchange.deliveredTokens,
      bytes: exchange.deliveredBytes,
    })
    await play(steps, speaker, exchange, gates)
    if (speaker.ended() || exchange.over) return
    if (speaker.saidDone()) speaker.end()
    else speaker.done()
  }

  /** A script on any other endpoint; what it leaves unanswered gets the regular answer. */
  const playAt = async (
    received: Received,
    exchange: Exchange,
    steps: readonly Step[],
    regular: () => void,
  ) => {
    const at = {
      path: received.path,
      model: '',
      stream: false,
      requestTag: null,
      promptTokens: 0,
      startedAt: received.at,
    }
    const aside = createJournal(0).open(at)
    const speaker = endpoints.speakerFor(received, exchange, aside, [])
    await play(steps, speaker, exchange, gates)
    if (!speaker.ended() && !exchange.over) regular()
  }

  const serve = (received: Received, exchange: Exchange, recording: Recording, how: ReplayOptions) => {
    if (isGenerating(received)) {
      const counts = recordedCounts(recording)
      const entry = endpoints.enter(received, counts.prompt ?? 0)
      received.log = entry
      entry.completionTokens = counts.completion ?? null
      endpoints.close(entry, exchange, () => (recording.ended === 'complete' ? 'done' : 'fault:truncate'))
    }
    serveRecording(recording, exchange, wheel, how)
  }

  const answer = (received: Received, exchange: Exchange) => {
    const queued = takeQueued(received)
    if (queued !== undefined && 'recording' in queued)
      return serve(received, exchange, queued.recording, queued.options)
    if (queued !== undefined && isGenerating(received)) return playScript(received, exchange, queued.steps)
    if (queued !== undefined)
      return playAt(received, exchange, queued.steps, () => endpoints.regular(received, exchange))
    const generates = isGenerating(received)
    const own = generates ? standing.get(canonicalName(String(received.body['model'] ?? ''))) : undefined
    if (own !== undefined) return playScript(received, exchange, own)
    if (replays !== undefined) {
      const { method, path, json } = received
      const recording = findRecording(replays.recordings, method, path, json)
      if (recording !== undefined) return serve(received, exchange, recording, replays.options)
    }
    if (generates && fallback !== undefined) return playScript(received, exchange, fallback)
    return endpoints.regular(received, exchange)
  }

  const remember = (received: Received) => {
    if (keepRequests === 0) return
    requests.push(received)
    if (requests.length > keepRequests) requests.shift()
    if (arrivals.length === 0 || !isGenerating(received)) return
    const found = requests.filter(isGenerating)
    const ready = arrivals.filter(({ count }) => found.length >= count)
    arrivals = arrivals.filter(one => !ready.includes(one))
    for (const { count, tell } of ready) tell(found.slice(0, count))
  }

  const server = listen({ hostname: options.hostname, port: options.port }, (request, exchange) => {
    journal.totals.requests++
    const received = receive(request, exchange, now())
    if (request.path.startsWith('/__')) return endpoints.regular(received, exchange)
    remember(received)
    void Promise.resolve(answer(received, exchange)).catch(error => {
      console.error(error)
      exchange.reset()
    })
  })

  return {
    url: `http://127.0.0.1:${server.port}`,
    port: server.port,
    requests,
    generating: () => requests.filter(isGenerating),
    arrived: (count = 1) =>
      new Promise(tell => {
        const found = requests.filter(isGenerating)
        if (found.length >= count) tell(found.slice(0, count))
        else arrivals.push({ count, tell })
      }),
    next: (...steps) => queue.push({ path: undefined, steps }),
    nextAt: (path, ...steps) => queue.push({ path, steps }),
    forModel(name, ...steps) {
      if (catalogue.find(name) === undefined) catalogue.add(name)
      standing.set(canonicalName(name), steps)
    },
    otherwise(...steps) {
      fallback = steps
    },
    replay(name, how = {}) {
      for (const recording of readCase(recordingsRoot, name)) queue.push({ recording, options: how })
    },
    replayAll(how = {}) {
      replays = {
        recordings: listCases(recordingsRoot).flatMap(name => readCase(recordingsRoot, name)),
        options: how,
      }
    },
    resume: (name = '') => gates.resume(name),
    reached: (name = '', count = 1) => gates.reached(name, count),
    catalogue,
    log: () => journal.after(0),
    stats,
    clear() {
      queue = []
      standing = new Map()
      fallback = undefined
      replays = undefined
      requests.length = 0
    },
    async close() {
      server.close()
      wheel.close()
    },
  }
}
