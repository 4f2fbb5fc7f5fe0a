/** Ollama's endpoints as they answer when no script does: the catalogue, embeddings, and the models themselves. */
import { compose, createChance, type Fault, type FaultKind, findTag, perform } from './behaviour.ts'
import type { Catalogue } from './catalogue.ts'
import { sharedMicros } from './clock.ts'
import { answerEmbed } from './embedding.ts'
import type { Exchange } from './exchange.ts'
import type { Ended, Journal, LogEntry, Stats } from './journal.ts'
import { isObject } from './json.ts'
import { generatingPaths, isLoadOnly, limitOf, type Received, stopsOf } from './received.ts'
import { findRefusal } from './requests.ts'
import { createSpeaker, goJson, jsonType, timestamp } from './speaker.ts'
import { parseSteering, steer, steeredPromptTokens } from './steering.ts'
import { countPrompt } from './tokens.ts'
import type { Wheel } from './wheel.ts'

const keepAliveMs = 300_000

const methods: Record<string, string> = {
  '/': 'GET',
  '/api/version': 'GET',
  '/api/tags': 'GET',
  '/api/ps': 'GET',
  '/api/show': 'POST',
  '/api/chat': 'POST',
  '/api/generate': 'POST',
  '/api/embed': 'POST',
  '/__log': 'GET',
  '/__stats': 'GET',
}

const answerJson = (
  exchange: Exchange,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
) => {
  const text = goJson(body)
  exchange.head(status, { 'Content-Type': jsonType, ...headers }, Buffer.byteLength(text))
  exchange.body(text)
  exchange.end()
}
const answerText = (exchange: Exchange, status: number, text: string, headers: Record<string, string>) => {
  exchange.head(status, headers, Buffer.byteLength(text))
  exchange.body(text)
  exchange.end()
}

export type EndpointOptions = {
  catalogue: Catalogue
  journal: Journal
  wheel: Wheel
  version: string
  msPerToken: number
  faults: { probability: number; seed: number; kinds: readonly FaultKind[] }
  stats: () => Stats
  now: () => number
}

/** `regular` answers any request; the rest is shared with scripted answers: the log's entry, and a speaker. */
export const createEndpoints = ({
  catalogue,
  journal,
  wheel,
  version,
  msPerToken,
  faults,
  stats,
  now,
}: EndpointOptions) => {
  const chance = createChance(faults.seed)

  /** A probable fault of a canned model's answer of `pieces` pieces. */
  const drawFault = (pieces: number): Fault | undefined => {
    const { probability, kinds } = faults
    if (probability <= 0 || chance() >= probability) return undefined
    const kind = kinds[Math.floor(chance() * kinds.length)] ?? 'reset'
    return { kind, at: kind === '500' || kind === '503' ? 0 : Math.floor(chance() * (pieces + 1)) }
  }

  /** Opens the log's entry of an answer. */
  const enter = (received: Pick<Received, 'path' | 'body' | 'at'>, promptTokens: number) =>
    journal.open({
      path: received.path,
      model: String(received.body['model'] ?? ''),
      stream: received.body['stream'] !== false,
      requestTag: findTag(received.body),
      promptTokens,
      startedAt: received.at,
    })
  /** Closes it when the answer is over; `how` is asked then. */
  const close = (entry: LogEntry, exchange: Exchange, how: () => Ended) =>
    exchange.onOver(left => {
      entry.delivered = exchange.deliveredTokens
      const planned = how()
      const ended = planned === 'fault:stall' || !left ? planned : 'hung up'
      if (left) entry.completionTokens = null
      journal.close(entry, ended, left, now(), sharedMicros())
    })

  const answerCatalogue = (received: Received, exchange: Exchange) => {
    const { method, path, body, query } = received
    const allowed = methods[path]
    if (allowed === undefined)
      return answerText(exchange, 404, '404 page not found', { 'Content-Type': 'text/plain' })
    if (method !== allowed && !(method === 'HEAD' && allowed === 'GET' && path !== '/api/ps'))
      return answerText(exchange, 405, '405 method not allowed', {
        Allow: allowed,
        'Content-Type': 'text/plain',
      })
    if (path === '/')
      return answerText(exchange, 200, 'Ollama is running', { 'Content-Type': 'text/plain; charset=utf-8' })
    if (path === '/api/version') return answerJson(exchange, 200, { version: version })
    if (path === '/api/tags') return answerJson(exchange, 200, catalogue.tags())
    if (path === '/api/ps') return answerJson(exchange, 200, catalogue.ps(now()))
    if (path === '/__stats') return answerJson(exchange, 200, stats())
    if (path === '/__log') {
      const max = Number(query.get('limit') ?? Number.POSITIVE_INFINITY)
      const entries = journal.after(Number(query.get('after') ?? 0), max)
      return answerJson(exchange, 200, {
        entries,
        dropped: journal.dropped(),
        running: journal.totals.running,
      })
    }
    const name = body['model'] ?? body['name'] ?? ''
    if (name === '') return answerJson(exchange, 400, { error: 'model is required' })
    const model = catalogue.find(String(name))
    if (model === undefined) return answerJson(exchange, 404, { error: `model '${name}' not found` })
    return answerJson(exchange, 200, catalogue.show(model))
  }

  const answerEmbedding = (received: Received, exchange: Exchange) => {
    const { body } = received
    const name = String(body['model'] ?? '')
    if (name === '') return answerJson(exchange, 404, { error: `model '' not found` })
    const model = catalogue.find(name)
    if (model === undefined)
      return answerJson(exchange, 404, { error: `model "${name}" not found, try pulling it first` })
    const answer = answerEmbed(model, name, body)
    const entry = enter(received, answer.promptTokens)
    received.log = entry
    close(entry, exchange, () => (answer.status === 200 ? 'done' : `fault:${answer.status}`))
    catalogue.load(model, now() + keepAliveMs)
    answerJson(exchange, answer.status, answer.body)
  }

  const speakerFor = (received: Received, exchange: Exchange, entry: LogEntry, stops: readonly string[]) =>
    createSpeaker({
      exchange,
      entry,
      dialect: received.path === '/api/generate' ? 'generate' : 'chat',
      stream: received.body['stream'] !== false,
      model: String(received.body['model'] ?? ''),
      limit: limitOf(received.body),
      stops,
      now,
    })

  const answerModel = (received: Received, exchange: Exchange) => {
    const { path, body } = received
    const name = String(body['model'] ?? '')
    const steering = parseSteering(name)
    if (steering !== undefined && catalogue.find(name) === undefined) {
      const entry = enter(received, steeredPromptTokens)
      received.log = entry
      const dialect = path === '/v1/chat/completions' ? 'openai' : 'chat'
      const stream = dialect === 'openai' ? body['stream'] === true : body['stream'] !== false
      const ending: { how: Ended } = { how: 'done' }
      close(entry, exchange, () => ending.how)
      return steer({
        exchange,
        entry,
        ending,
        model: name,
        steering,
        dialect,
        stream,
        limit: limitOf(body),
        wheel,
      })
    }
    if (name === '' && path === '/api/chat') return answerJson(exchange, 400, { error: 'model is required' })
    const model = catalogue.find(name)
    if (model === undefined) return answerJson(exchange, 404, { error: `model '${name}' not found` })
    const refusal = findRefusal(model, name, body, path)
    if (refusal !== undefined) return answerJson(exchange, refusal.status, { error: refusal.error })
    if (isLoadOnly(path, body)) {
      const unload = body['keep_alive'] === 0
      if (unload) catalogue.unload(model)
      else catalogue.load(model, now() + keepAliveMs)
      const said = path === '/api/chat' ? { message: { role: 'assistant', content: '' } } : { response: '' }
      const reason = unload ? 'unload' : 'load'
      return answerJson(exchange, 200, {
        model: name,
        created_at: timestamp(now()),
        ...said,
        done: true,
        done_reason: reason,
      })
    }
    const asked = isObject(body['options']) ? body['options']['num_ctx'] : undefined
    const context = typeof asked === 'number' ? Math.min(asked, model.contextLength) : model.contextLength
    const prompt = countPrompt(body)
    if (prompt > context && body['truncate'] === false)
      return answerJson(exchange, 400, { error: 'the input length exceeds the context length' })
    const entry = enter(received, Math.min(prompt, context))
    received.log = entry
    catalogue.load(model, now() + keepAliveMs)
    const uttered = compose(model.behaviour, body)
    const speaker = speakerFor(received, exchange, entry, stopsOf(body))
    close(entry, exchange, speaker.how)
    received.delivered = () => ({
      lines: speaker.lines(),
      tokens: exchange.deliveredTokens,
      bytes: exchange.deliveredBytes,
    })
    const fault = drawFault(uttered.length)
    perform(uttered, speaker, exchange, { wheel, msPerToken: model.msPerToken ?? msPerToken, fault })
  }

  const regular = (received: Received, exchange: Exchange) => {
    const { method, path, body, json, bytes } = received
    if (
      method !== 'POST' ||
      !(generatingPaths.has(path) || path === '/v1/chat/completions' || path === '/api/embed')
    )
      return answerCatalogue(received, exchange)
    if (bytes.length === 0) return answerJson(exchange, 400, { error: 'missing request body' })
    if (!isObject(json))
      return answerJson(exchange, 400, { error: "invalid character '}' looking for beginning of value" })
    if (path === '/api/embed') return answerEmbedding(received, exchange)
    if (path === '/v1/chat/completions' && parseSteering(String(body['model'] ?? '')) === undefined)
      return answerText(exchange, 404, '404 page not found', { 'Content-Type': 'text/plain' })
    answerModel(received, exchange)
  }

  return { regular, enter, close, speakerFor }
}
