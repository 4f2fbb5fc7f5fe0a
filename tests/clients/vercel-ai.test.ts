/** The Vercel AI SDK, by its generic OpenAI-compatible provider and by its OpenAI provider in chat mode. */
import { describe, expect, test } from 'bun:test'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import {
  APICallError,
  embed,
  embedMany,
  generateObject,
  generateText,
  stepCountIs,
  streamObject,
  streamText,
  tool,
} from 'ai'
import { z } from 'zod'
import { done, pause, reset, say, stall, think, toolCall } from '../../src/simulator/script.ts'
import { historyOf, startSession } from '../support/session.ts'

const start = async () => {
  const { ollama, proxy } = await startSession({
    simulator: {
      models: ['m', { name: 'embedder', behaviour: 'embedder' }, { name: 'thinker', behaviour: 'thinker' }],
    },
  })
  const key = await proxy.createUser('alice')
  const at = { apiKey: key, baseURL: `${proxy.url}/v1` }
  const compatible = createOpenAICompatible({
    name: 'ollama',
    includeUsage: true,
    supportsStructuredOutputs: true,
    ...at,
  })
  const openai = createOpenAI(at)
  return { ollama, proxy, key, compatible, openai }
}
type Session = Awaited<ReturnType<typeof start>>

const providers = [
  [
    '@ai-sdk/openai-compatible',
    ({ compatible }: Session, id: string) => compatible.chatModel(id),
    ({ compatible }: Session) => compatible.embeddingModel('embedder'),
  ],
  [
    '@ai-sdk/openai .chat()',
    ({ openai }: Session, id: string) => openai.chat(id),
    ({ openai }: Session) => openai.embedding('embedder'),
  ],
] as const

const weather = tool({
  description: 'Weather of a city',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
})

for (const [name, model, embedder] of providers) {
  describe(name, () => {
    test('generateText', async () => {
      const session = await start()
      session.ollama.next(say('Hello'), say(' there'), done({ prompt: 7, completion: 3 }))
      const { text, usage, finishReason } = await generateText({
        model: model(session, 'm'),
        system: 'Be brief.',
        prompt: 'Hi',
        temperature: 0,
        maxOutputTokens: 50,
        maxRetries: 0,
      })
      expect(text).toBe('Hello there')
      expect(finishReason).toBe('stop')
      expect(usage).toMatchObject({ inputTokens: 7, outputTokens: 3, totalTokens: 10 })
      expect(session.ollama.generating()[0]?.body).toMatchObject({
        messages: [
          { role: 'system', content: 'Be brief.' },
          { role: 'user', content: 'Hi' },
        ],
        options: { temperature: 0, num_predict: 50 },
      })
      expect((await historyOf(session.proxy, session.key))[0]).toMatchObject({
        total_tokens: 10,
        outcome: 'completed',
      })
    })

    test('streamText: pieces, reason and usage', async () => {
      const session = await start()
      session.ollama.next(say('Hel'), say('lo'), done({ prompt: 7, completion: 3, reason: 'length' }))
      const result = streamText({ model: model(session, 'm'), prompt: 'Hi', maxRetries: 0 })
      const pieces: string[] = []
      for await (const piece of result.textStream) pieces.push(piece)
      expect(pieces).toEqual(['Hel', 'lo'])
      expect(await result.finishReason).toBe('length')
      expect(await result.usage).toMatchObject({ inputTokens: 7, outputTokens: 3 })
    })

    test('generateObject gives the object, and Ollama the schema', async () => {
      const session = await start()
      session.ollama.next(say('{"name":"Fair",'), say('"people":["Ann"]}'), done())
      const schema = z.object({ name: z.string(), people: z.array(z.string()) })
      const { object } = await generateObject({
        model: model(session, 'm'),
        schema,
        prompt: 'An event',
        maxRetries: 0,
      })
      expect(object).toEqual({ name: 'Fair', people: ['Ann'] })
      expect(session.ollama.generating()[0]?.body['format']).toMatchObject({
        type: 'object',
        properties: { name: { type: 'string' } },
      })
    })

    test('streamObject grows the object', async () => {
      const session = await start()
      session.ollama.next(say('{"name":'), say('"Fair"'), say('}'), done())
      const result = streamObject({
        model: model(session, 'm'),
        schema: z.object({ name: z.string() }),
        prompt: 'An event',
        maxRetries: 0,
      })
      for await (const _ of result.partialObjectStream);
      expect(await result.object).toEqual({ name: 'Fair' })
    })

    test('tools: the round trip ends with text, plain and streamed', async () => {
      const session = await start()
      const script = () => {
        session.ollama.next(
          toolCall({ name: 'weather', arguments: { city: 'Bern' } }),
          toolCall({ name: 'weather', arguments: { city: 'Rom' }, id: 'call_2', index: 1 }),
          done(),
        )
        session.ollama.next(say('Sunny in both.'), done())
      }
      const options = {
        model: model(session, 'm'),
        tools: { weather },
        stopWhen: stepCountIs(3),
        prompt: 'Weather?',
        maxRetries: 0,
      }
      script()
      const plain = await generateText(options)
      expect(plain.text).toBe('Sunny in both.')
      expect(plain.steps[0]?.finishReason).toBe('tool-calls')
      expect(plain.steps[0]?.toolCalls.map(({ input }) => input)).toEqual([{ city: 'Bern' }, { city: 'Rom' }])
      script()
      const streamed = streamText(options)
      await streamed.consumeStream()
      expect(await streamed.text).toBe('Sunny in both.')
      for (const at of [1, 3])
        expect(session.ollama.generating()[at]?.body['messages']).toMatchObject([
          { role: 'user' },
          {
            role: 'assistant',
            tool_calls: [
              { function: { name: 'weather', arguments: { city: 'Bern' } } },
              { function: { arguments: { city: 'Rom' } } },
            ],
          },
          { role: 'tool', tool_name: 'weather', content: 'sunny in Bern' },
          { role: 'tool', tool_name: 'weather', content: 'sunny in Rom' },
        ])
    })

    test('embed and embedMany, in order', async () => {
      const session = await start()
      const { embedding } = await embed({ model: embedder(session), value: 'one', maxRetries: 0 })
      const { embeddings, usage } = await embedMany({
        model: embedder(session),
        values: ['two', 'one', 'three'],
        maxRetries: 0,
      })
      expect(embeddings).toHaveLength(3)
      expect(embeddings[1]).toEqual(embedding)
      expect(usage.tokens).toBeGreaterThan(0)
    })

    test('an image is shown to the model', async () => {
      const session = await start()
      const png =
        'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=='
      session.ollama.next(say('a dot'), done())
      await generateText({
        model: model(session, 'm'),
        messages: [
          {
            role: 'user',
            content: [
              { type: 'text', text: 'What?' },
              { type: 'image', image: png, mediaType: 'image/png' },
            ],
          },
        ],
        maxRetries: 0,
      })
      expect(session.ollama.generating()[0]?.body['messages']).toEqual([
        { role: 'user', content: 'What?', images: [png] },
      ])
    })

    test('errors carry the status and the message', async () => {
      const session = await start()
      const error = await generateText({
        model: model(session, 'nobody'),
        prompt: 'Hi',
        maxRetries: 0,
      }).catch(thrown => thrown)
      expect(APICallError.isInstance(error)).toBe(true)
      expect(error.statusCode).toBe(404)
      expect(error.message).toContain('nobody')
      expect(error.isRetryable).toBe(false)
      session.ollama.next(reset())
      const broken = await generateText({ model: model(session, 'm'), prompt: 'Hi', maxRetries: 0 }).catch(
        thrown => thrown,
      )
      expect([broken.statusCode, broken.isRetryable]).toEqual([502, true])
    })

    test('a stream that dies is an error part', async () => {
      const session = await start()
      session.ollama.next(say('one'), pause(), reset())
      const errors: unknown[] = []
      const result = streamText({
        model: model(session, 'm'),
        prompt: 'Hi',
        maxRetries: 0,
        onError: ({ error }) => void errors.push(error),
      })
      const kinds: string[] = []
      for await (const part of result.fullStream) {
        kinds.push(part.type)
        if (part.type === 'text-delta') session.ollama.resume()
      }
      expect(kinds).toContain('error')
      expect(errors).toHaveLength(1)
      expect(JSON.stringify(errors)).toContain('upstream_error')
    })

    test('abort stops Ollama', async () => {
      const session = await start()
      session.ollama.next(say('one'), stall())
      const leaving = new AbortController()
      const result = streamText({
        model: model(session, 'm'),
        prompt: 'Hi',
        maxRetries: 0,
        abortSignal: leaving.signal,
      })
      for await (const part of result.fullStream) if (part.type === 'text-delta') leaving.abort()
      expect(await session.ollama.generating()[0]?.closed).toBe('hung up')
    })
  })
}

test('openai-compatible shows the thinking, plain and streamed, and sends it back', async () => {
  const session = await start()
  const model = session.compatible.chatModel('thinker')
  const script = () => session.ollama.next(think('Let me'), think(' see.'), say('42'), done())
  script()
  const plain = await generateText({
    model,
    prompt: 'What?',
    maxRetries: 0,
    providerOptions: { ollama: { reasoningEffort: 'high' } },
  })
  expect(plain.reasoningText).toBe('Let me see.')
  expect(plain.text).toBe('42')
  expect(session.ollama.generating()[0]?.body['think']).toBe('high')
  script()
  const streamed = streamText({
    model,
    messages: [
      { role: 'user', content: 'What?' },
      ...plain.response.messages,
      { role: 'user', content: 'And?' },
    ],
    maxRetries: 0,
  })
  expect(await streamed.reasoningText).toBe('Let me see.')
  expect(await streamed.text).toBe('42')
  expect(session.ollama.generating()[1]?.body['messages']).toMatchObject([
    { role: 'user' },
    { role: 'assistant', content: '42', thinking: 'Let me see.' },
    { role: 'user' },
  ])
})

test('openai-compatible completes text by the legacy endpoint', async () => {
  const session = await start()
  session.ollama.next(say('one'), say(' two'), done({ prompt: 3, completion: 3 }))
  const result = streamText({ model: session.compatible.completionModel('m'), prompt: 'Hi', maxRetries: 0 })
  expect(await result.text).toBe('one two')
  expect(await result.usage).toMatchObject({ inputTokens: 3, outputTokens: 3 })
})
