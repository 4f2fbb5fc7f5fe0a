/** LangChain for JavaScript with its OpenAI classes. */
import { describe, expect, test } from 'bun:test'
import { type AIMessageChunk, HumanMessage, SystemMessage, ToolMessage } from '@langchain/core/messages'
import { tool } from '@langchain/core/tools'
import { ChatOpenAI, OpenAI, OpenAIEmbeddings } from '@langchain/openai'
import { z } from 'zod'
import { done, pause, reset, say, toolCall } from '../../src/simulator/script.ts'
import { historyOf, startSession } from '../support/session.ts'

const start = async () => {
  const { ollama, proxy } = await startSession({
    simulator: { models: ['m', { name: 'embedder', behaviour: 'embedder' }] },
  })
  const key = await proxy.createUser('alice')
  const at = { apiKey: key, maxRetries: 0, configuration: { baseURL: `${proxy.url}/v1` } }
  const chat = (more: object = {}) => new ChatOpenAI({ model: 'm', ...at, ...more })
  return { ollama, proxy, key, at, chat }
}

/** The chunks of a stream, put together as LangChain does it. */
const join = async (stream: AsyncIterable<AIMessageChunk>) => {
  const chunks: AIMessageChunk[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return chunks.reduce<AIMessageChunk | undefined>((whole, chunk) => whole?.concat(chunk) ?? chunk, undefined)
}

const weather = tool(async ({ city }: { city: string }) => `sunny in ${city}`, {
  name: 'weather',
  description: 'Weather of a city',
  schema: z.object({ city: z.string() }),
})

describe('ChatOpenAI', () => {
  test('invoke, with usage', async () => {
    const { ollama, proxy, key, chat } = await start()
    ollama.next(say('Hello'), say(' there'), done({ prompt: 7, completion: 3 }))
    const answer = await chat({ temperature: 0, maxTokens: 20 }).invoke([
      new SystemMessage('Be brief.'),
      new HumanMessage('Hi'),
    ])
    expect(answer.content).toBe('Hello there')
    expect(answer.usage_metadata).toMatchObject({ input_tokens: 7, output_tokens: 3, total_tokens: 10 })
    expect(answer.response_metadata['finish_reason']).toBe('stop')
    expect(ollama.generating()[0]?.body).toMatchObject({
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'Hi' },
      ],
      options: { temperature: 0, num_predict: 20 },
    })
    expect((await historyOf(proxy, key))[0]).toMatchObject({ id: answer.id, total_tokens: 10 })
  })

  test('stream, with and without usage', async () => {
    const { ollama, chat } = await start()
    for (const streamUsage of [true, false]) {
      ollama.next(say('Hel'), say('lo'), done({ prompt: 7, completion: 3 }))
      const whole = await join(await chat({ streamUsage }).stream('Hi'))
      expect(whole?.content).toBe('Hello')
      if (streamUsage) expect(whole?.usage_metadata).toMatchObject({ total_tokens: 10 })
      else expect(whole?.usage_metadata).toBeUndefined()
    }
  })

  test('bindTools: calls plain and streamed, and their results sent back', async () => {
    const { ollama, chat } = await start()
    const calls = () =>
      ollama.next(
        toolCall({ name: 'weather', arguments: { city: 'Bern' } }),
        toolCall({ name: 'weather', arguments: { city: 'Rom' }, id: 'call_2', index: 1 }),
        done(),
      )
    const bound = chat().bindTools([weather])
    calls()
    const plain = await bound.invoke('Weather?')
    expect(plain.tool_calls).toMatchObject([
      { name: 'weather', args: { city: 'Bern' }, id: 'call_a1b2c3d4' },
      { name: 'weather', args: { city: 'Rom' }, id: 'call_2' },
    ])
    calls()
    const streamed = await join(await bound.stream('Weather?'))
    expect(streamed?.tool_calls).toMatchObject(
      plain.tool_calls?.map(({ name, args, id }) => ({ name, args, id })) ?? [],
    )
    ollama.next(say('Sunny.'), done())
    const results = await Promise.all(
      (plain.tool_calls ?? []).map(
        async call =>
          new ToolMessage({
            content: String(await weather.invoke(call.args as { city: string })),
            tool_call_id: call.id ?? '',
          }),
      ),
    )
    const last = await bound.invoke([new HumanMessage('Weather?'), plain, ...results])
    expect(last.content).toBe('Sunny.')
    expect(ollama.generating()[2]?.body['messages']).toMatchObject([
      { role: 'user' },
      {
        role: 'assistant',
        tool_calls: [
          { function: { arguments: { city: 'Bern' } } },
          { function: { arguments: { city: 'Rom' } } },
        ],
      },
      { role: 'tool', tool_name: 'weather', content: 'sunny in Bern' },
      { role: 'tool', tool_name: 'weather', content: 'sunny in Rom' },
    ])
  })

  test('withStructuredOutput, by schema and by function call', async () => {
    const { ollama, chat } = await start()
    const schema = z.object({ name: z.string(), people: z.array(z.string()) })
    ollama.next(say('{"name":"Fair","people":["Ann"]}'), done())
    expect(
      await chat().withStructuredOutput(schema, { name: 'event', method: 'jsonSchema' }).invoke('An event'),
    ).toEqual({ name: 'Fair', people: ['Ann'] })
    expect(ollama.generating()[0]?.body['format']).toMatchObject({ type: 'object' })
    ollama.next(toolCall({ name: 'event', arguments: { name: 'Fair', people: ['Ann'] } }), done())
    expect(
      await chat()
        .withStructuredOutput(schema, { name: 'event', method: 'functionCalling' })
        .invoke('An event'),
    ).toEqual({ name: 'Fair', people: ['Ann'] })
    expect(ollama.generating()[1]?.body['tools']).toMatchObject([{ function: { name: 'event' } }])
    ollama.next(say('{"name":"Fair","people":[]}'), done())
    expect(
      await chat()
        .withStructuredOutput(schema, { name: 'event', method: 'jsonMode' })
        .invoke('An event, as JSON'),
    ).toEqual({ name: 'Fair', people: [] })
    expect(ollama.generating()[2]?.body['format']).toBe('json')
  })

  test('errors are raised, also in mid-stream', async () => {
    const { ollama, chat } = await start()
    const missing = await chat({ model: 'nobody' })
      .invoke('Hi')
      .catch((thrown: unknown) => thrown)
    expect(missing).toMatchObject({ status: 404, code: 'model_not_found' })
    ollama.next(say('one'), pause(), reset())
    const read = async () => {
      for await (const chunk of await chat().stream('Hi')) if (chunk.content === 'one') ollama.resume()
    }
    expect(await read().catch((thrown: unknown) => thrown)).toMatchObject({ code: 'upstream_error' })
  })
})

test('OpenAI completes text by the legacy endpoint', async () => {
  const { ollama, at } = await start()
  ollama.next(say('one'), say(' two'), done({ prompt: 3, completion: 3 }))
  expect(await new OpenAI({ model: 'm', ...at }).invoke('Count')).toBe('one two')
  expect(ollama.generating()[0]).toMatchObject({ path: '/api/generate', body: { prompt: 'Count' } })
})

describe('OpenAIEmbeddings', () => {
  test('documents and a query, in order', async () => {
    const { at } = await start()
    const embeddings = new OpenAIEmbeddings({ model: 'embedder', ...at })
    const documents = await embeddings.embedDocuments(['one', 'two', 'three'])
    expect(documents).toHaveLength(3)
    const query = await embeddings.embedQuery('two')
    const distance = Math.max(
      ...query.map((value, index) => Math.abs(value - (documents[1]?.[index] ?? Number.NaN))),
    )
    expect(distance).toBeLessThan(1e-6)
  })

  test('token arrays, as LangChain for Python sends by default, are refused with the setting to change', async () => {
    const { proxy, key } = await start()
    const answer = await proxy.call('/v1/embeddings', {
      key,
      json: { model: 'embedder', input: [[1, 2, 3]], encoding_format: 'base64' },
    })
    expect(answer.status).toBe(400)
    const { error } = (await answer.json()) as { error: { message: string; param: string } }
    expect(error.param).toBe('input')
    expect(error.message).toContain('check_embedding_ctx_length=False')
  })
})
