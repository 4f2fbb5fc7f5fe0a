/**
 * The proxy in front of a real Ollama, with whatever models it has: set OLLAMA_TEST_URL=http://localhost:11434. The
 * smallest model of each capability is used. What models say is theirs; shapes, counts and the bill are ours.
 */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import OpenAI from 'openai'
import { zodResponseFormat } from 'openai/helpers/zod'
import { z } from 'zod'
import { chatCompletion, joinAnswer, joinChunks, readChunks } from '../support/contract.ts'
import { type Proxy as RunningProxy, startProxy } from '../support/proxy.ts'
import { historyOf } from '../support/session.ts'

const url = process.env['OLLAMA_TEST_URL']?.replace(/\/+$/, '')
/** A cold model on a slow machine. */
const timeout = 300_000

type Listed = { name: string; size: number }

/** The smallest model of each capability; an Ollama that is not there fails the suite, for it was asked for. */
const findModels = async (base: string) => {
  const { models } = (await (await fetch(`${base}/api/tags`)).json()) as { models: Listed[] }
  const found = new Map<string, string>()
  for (const { name } of models.filter(({ name }) => !/cloud$/.test(name)).sort((a, b) => a.size - b.size)) {
    const shown = await fetch(`${base}/api/show`, { method: 'POST', body: JSON.stringify({ model: name }) })
    const { capabilities = [] } = (await shown.json()) as { capabilities?: string[] }
    for (const capability of capabilities) if (!found.has(capability)) found.set(capability, name)
  }
  return found
}

if (url === undefined) {
  test.skip('a real Ollama: skipped, OLLAMA_TEST_URL is not set', () => undefined)
  console.log('SKIPPED: the suite against a real Ollama; set OLLAMA_TEST_URL to its address to run it')
} else {
  const models = await findModels(url)
  const chatModel = models.get('completion')
  const of = (capability: string) => models.get(capability) ?? ''
  const lacks = (...capabilities: string[]) => capabilities.some(capability => !models.has(capability))
  const say = (content: string) => [{ role: 'user' as const, content }]
  const counting = {
    messages: say('Count from one to five in words.'),
    temperature: 0,
    seed: 1,
    max_tokens: 24,
  }

  describe(`a real Ollama (${[...models].map(([capability, model]) => `${capability}: ${model}`).join(', ')})`, () => {
    let proxy: RunningProxy
    let key: string
    let sdk: OpenAI
    beforeAll(async () => {
      proxy = await startProxy({ ollamaUrl: url })
      key = await proxy.createUser('alice')
      sdk = proxy.sdk(key)
    })
    afterAll(() => proxy?.stop())

    const lastRow = async () => (await historyOf(proxy, key))[0]
    const ask = (json: object, signal?: AbortSignal) =>
      proxy.call('/v1/chat/completions', {
        key,
        json: { model: chatModel, ...json },
        ...(signal && { signal }),
      })

    test('its models are listed, each can be retrieved', async () => {
      const ids: string[] = []
      for await (const model of sdk.models.list()) ids.push(model.id)
      expect(ids.length).toBeGreaterThan(0)
      for (const id of ids.slice(0, 5)) expect((await sdk.models.retrieve(id)).id).toBe(id)
    })

    test.skipIf(lacks('completion'))(
      'a plain answer and a stream are valid, measured, and billed as the client reads',
      async () => {
        const plain = chatCompletion.parse(await (await ask(counting)).json())
        expect(await lastRow()).toMatchObject({
          id: plain.id,
          outcome: 'completed',
          basis: 'measured',
          prompt_tokens: plain.usage.prompt_tokens,
          completion_tokens: plain.usage.completion_tokens,
        })
        expect(plain.usage.prompt_tokens).toBeGreaterThan(0)
        expect(plain.usage.completion_tokens).toBeWithin(1, 25)
        const answer = await ask({ ...counting, stream: true, stream_options: { include_usage: true } })
        const chunks = readChunks(await answer.text(), { usage: true })
        const { content, reasoning } = joinChunks(chunks)
        expect(content + reasoning).not.toBe('')
        expect(await lastRow()).toMatchObject({
          id: chunks[0]?.id,
          total_tokens: chunks.at(-1)?.usage?.total_tokens,
          basis: 'measured',
        })
        // The same prompt costs the same, cached or not.
        expect(chunks.at(-1)?.usage?.prompt_tokens).toBe(plain.usage.prompt_tokens)
        expect(joinAnswer(plain).finish_reason).toBe(
          joinChunks(chunks).finish_reason === 'length' ? 'length' : 'stop',
        )
      },
      timeout,
    )

    test.skipIf(lacks('completion'))(
      'the bill equals what Ollama reports to a client of its own',
      async () => {
        const native = (await (
          await fetch(`${url}/api/chat`, {
            method: 'POST',
            body: JSON.stringify({
              model: chatModel,
              messages: counting.messages,
              stream: false,
              options: { temperature: 0, seed: 1, num_predict: 24 },
            }),
          })
        ).json()) as { prompt_eval_count: number; eval_count: number }
        const { usage } = chatCompletion.parse(await (await ask(counting)).json())
        expect(usage.prompt_tokens).toBe(native.prompt_eval_count)
        expect(usage.completion_tokens).toBe(native.eval_count)
      },
      timeout,
    )

    test.skipIf(lacks('completion'))(
      'max_tokens ends with length, exactly',
      async () => {
        const answer = await sdk.chat.completions.create({
          model: of('completion'),
          messages: say('Tell a long story.'),
          max_completion_tokens: 3,
        })
        expect(answer.usage?.completion_tokens).toBeLessThanOrEqual(3)
        if (answer.usage?.completion_tokens === 3) expect(answer.choices[0]?.finish_reason).toBe('length')
      },
      timeout,
    )

    test.skipIf(lacks('completion'))(
      'leaving a stream is billed for what arrived',
      async () => {
        const stream = await sdk.chat.completions.create({
          model: of('completion'),
          messages: say('Count to five hundred in words.'),
          stream: true,
          max_tokens: 400,
        })
        let pieces = 0
        for await (const _ of stream) if (++pieces === 5) stream.controller.abort()
        await proxy.settled()
        const row = await lastRow()
        expect(['cancelled', 'completed']).toContain(String(row?.['outcome']))
        expect(row?.['prompt_tokens']).toBeGreaterThan(0)
        expect(row?.['completion_tokens']).toBeGreaterThan(0)
      },
      timeout,
    )

    test.skipIf(lacks('completion'))(
      'a schema is held to, and parsed by the SDK',
      async () => {
        const schema = z.object({ city: z.string(), inhabitants: z.number() })
        const answer = await sdk.chat.completions
          .parse({
            model: of('completion'),
            messages: say('A city and its number of inhabitants, as JSON.'),
            temperature: 0,
            max_tokens: 200,
            reasoning_effort: 'none',
            response_format: zodResponseFormat(schema, 'city'),
          })
          .catch(thrown => thrown)
        // A small model may not come to an end; what it says until then must be told as such.
        if (answer instanceof Error) expect(answer.constructor.name).toBe('LengthFinishReasonError')
        else expect(() => schema.parse(answer.choices[0].message.parsed)).not.toThrow()
      },
      timeout,
    )

    test.skipIf(lacks('completion'))(
      'n choices and legacy completions',
      async () => {
        const several = await sdk.chat.completions.create({
          model: of('completion'),
          messages: say('A word.'),
          n: 2,
          max_tokens: 8,
        })
        expect(several.choices.map(({ index }) => index)).toEqual([0, 1])
        expect((await lastRow())?.['total_tokens']).toBe(several.usage?.total_tokens)
        const legacy = await sdk.completions.create({
          model: of('completion'),
          prompt: 'Once upon a time',
          max_tokens: 8,
        })
        expect(legacy.usage?.completion_tokens).toBeWithin(1, 9)
        expect((await lastRow())?.['id']).toBe(legacy.id)
      },
      timeout,
    )

    test.skipIf(lacks('tools'))(
      'a model with tools takes them, and what it answers is valid',
      async () => {
        const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
        const tools = [
          {
            type: 'function',
            function: { name: 'get_weather', description: 'The weather of a city now', parameters },
          },
        ]
        const request = {
          model: of('tools'),
          messages: say('Call get_weather for Paris.'),
          temperature: 0,
          max_tokens: 300,
          tools,
        }
        const plain = chatCompletion.parse(await (await ask(request)).json())
        const chunks = readChunks(await (await ask({ ...request, stream: true })).text(), { usage: false })
        for (const { calls, finish_reason } of [joinAnswer(plain), joinChunks(chunks)]) {
          for (const { name } of calls) expect(name).toBe('get_weather')
          expect(finish_reason === 'tool_calls').toBe(calls.length > 0 && finish_reason !== 'length')
        }
      },
      timeout,
    )

    test.skipIf(lacks('thinking'))(
      'thinking comes before the answer, and can be switched off',
      async () => {
        const request = { model: of('thinking'), messages: say('What is 2 + 2?'), max_tokens: 300 }
        const on = joinAnswer(
          chatCompletion.parse(await (await ask({ ...request, reasoning_effort: 'low' })).json()),
        )
        expect(on.reasoning).not.toBe('')
        const off = await ask({ ...request, reasoning_effort: 'none' })
        expect(off.status).toBe(200)
      },
      timeout,
    )

    test.skipIf(lacks('embedding'))(
      'embeddings: both encodings, in order, billed',
      async () => {
        const model = of('embedding')
        const packed = await sdk.embeddings.create({ model, input: ['one', 'two'] })
        const floats = await sdk.embeddings.create({ model, input: ['one', 'two'], encoding_format: 'float' })
        expect(packed.data.map(({ index }) => index)).toEqual([0, 1])
        for (const [at, { embedding }] of floats.data.entries())
          expect(
            Math.max(
              ...embedding.map((value, index) =>
                Math.abs(value - (packed.data[at]?.embedding[index] ?? Number.NaN)),
              ),
            ),
          ).toBeLessThan(1e-3)
        expect((await lastRow())?.['prompt_tokens']).toBe(floats.usage.prompt_tokens)
      },
      timeout,
    )

    test('an unknown model is a 404 that costs no tokens', async () => {
      const error = await sdk.chat.completions
        .create({ model: 'no-such-model-anywhere', messages: say('x') })
        .catch(thrown => thrown)
      expect(error).toBeInstanceOf(OpenAI.NotFoundError)
      expect(error.code).toBe('model_not_found')
      expect(await lastRow()).toMatchObject({ outcome: 'failed', total_tokens: 0 })
    })

    test.skipIf(lacks('completion'))(
      'a prompt too long is refused where TRUNCATION says so',
      async () => {
        const strict = await startProxy({ ollamaUrl: url, settings: { TRUNCATION: 'refuse' } })
        try {
          const strictKey = await strict.createUser('bob')
          const answer = await strict.call('/v1/chat/completions', {
            key: strictKey,
            json: { model: chatModel, messages: say('word '.repeat(400_000)), max_tokens: 1 },
          })
          expect(answer.status).toBe(400)
          expect(await answer.json()).toMatchObject({ error: { code: 'context_length_exceeded' } })
        } finally {
          await strict.stop()
        }
      },
      timeout,
    )
  })
}
