/** The OpenAI SDK for JavaScript, its newest two majors, unchanged but for the base URL. */
import { describe, expect, test } from 'bun:test'
import OpenAI7 from 'openai'
import * as helpers7 from 'openai/helpers/zod'
import OpenAI6 from 'openai-6'
import * as helpers6 from 'openai-6/helpers/zod'
import { z } from 'zod'
import { done, pause, reset, say, stall, status, think, toolCall } from '../../src/simulator/script.ts'
import { hello, historyOf, startSession } from '../support/session.ts'

// The majors' types differ in places that these tests do not touch.
const majors = [
  {
    major: 7,
    OpenAI: OpenAI7,
    zodResponseFormat: helpers7.zodResponseFormat,
    zodFunction: helpers7.zodFunction,
  },
  {
    major: 6,
    OpenAI: OpenAI6 as unknown as typeof OpenAI7,
    zodResponseFormat: helpers6.zodResponseFormat as unknown as typeof helpers7.zodResponseFormat,
    zodFunction: helpers6.zodFunction as unknown as typeof helpers7.zodFunction,
  },
]

const models = [
  'm',
  'llama3.2:1b',
  'hf.co/org/name:Q4_K_M',
  { name: 'thinker', behaviour: 'thinker' },
  { name: 'embedder', behaviour: 'embedder' },
  { name: 'plain', capabilities: ['completion'] },
] as const

const chat = { model: 'm', messages: hello }
const noLimits = {
  requests_per_minute: null,
  requests_per_day: null,
  tokens_per_minute: null,
  tokens_per_day: null,
  total_token_limit: null,
}
const weather = {
  type: 'function',
  function: {
    name: 'weather',
    description: 'Weather of a city',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
} as const

for (const { major, OpenAI, zodResponseFormat, zodFunction } of majors) {
  const start = async (
    options: Parameters<typeof startSession>[0] & { limits?: Record<string, number | null> } = {},
  ) => {
    const { limits = noLimits, ...rest } = options
    const { ollama, proxy } = await startSession({ simulator: { models: [...models] as string[] }, ...rest })
    const key = await proxy.createUser('alice', limits)
    /** What the SDK sent and was answered, attempt by attempt. */
    const attempts: { retry: string | null; status: number }[] = []
    const client = (
      more: {
        apiKey?: string
        maxRetries?: number
        timeout?: number
        after?: (answer: Response) => Response | undefined
      } = {},
    ) => {
      const { after = () => undefined, ...clientOptions } = more
      return new OpenAI({
        apiKey: key,
        baseURL: `${proxy.url}/v1`,
        maxRetries: 0,
        ...clientOptions,
        fetch: async (url: string | URL | Request, init?: RequestInit) => {
          const answer = await fetch(url, init)
          attempts.push({
            retry: new Headers(init?.headers).get('x-stainless-retry-count'),
            status: answer.status,
          })
          return after(answer) ?? answer
        },
      })
    }
    return { ollama, proxy, key, attempts, client, sdk: client() }
  }

  describe(`openai ${major}`, () => {
    describe('chat', () => {
      test('create gives an answer, with usage and the id of its row', async () => {
        const { ollama, proxy, key, sdk } = await start()
        ollama.next(say('Hello'), say(' there'), done({ prompt: 7, completion: 3 }))
        const answer = await sdk.chat.completions.create({ ...chat, temperature: 0, seed: 0, stop: '\n\n' })
        expect(answer.choices[0]?.message).toMatchObject({ role: 'assistant', content: 'Hello there' })
        expect(answer.choices[0]?.finish_reason).toBe('stop')
        expect(answer.usage).toMatchObject({ prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 })
        expect(ollama.generating()[0]?.body['options']).toEqual({ temperature: 0, seed: 0, stop: ['\n\n'] })
        expect((await historyOf(proxy, key))[0]).toMatchObject({ id: answer.id, total_tokens: 10 })
      })

      test('create with stream: pieces as they come, usage last', async () => {
        const { ollama, sdk } = await start()
        ollama.next(say('Hel'), say('lo'), done({ prompt: 7, completion: 3 }))
        const chunks: OpenAI7.ChatCompletionChunk[] = []
        for await (const chunk of await sdk.chat.completions.create({
          ...chat,
          stream: true,
          stream_options: { include_usage: true },
        }))
          chunks.push(chunk)
        expect(
          chunks.map(chunk => chunk.choices[0]?.delta.content ?? '').filter(piece => piece !== ''),
        ).toEqual(['Hel', 'lo'])
        expect(chunks.at(-1)?.usage?.total_tokens).toBe(10)
      })

      test('the stream() helper ends with a whole answer', async () => {
        const { ollama, sdk } = await start()
        ollama.next(
          think('Hm.'),
          say('One'),
          say(' two'),
          toolCall({ name: 'weather', arguments: { city: 'Bern' } }),
          toolCall({ name: 'weather', arguments: { city: 'Rom' }, id: 'call_2', index: 1 }),
          done({ prompt: 9, completion: 8 }),
        )
        const events: string[] = []
        const stream = sdk.chat.completions.stream({
          ...chat,
          model: 'thinker',
          tools: [weather],
          stream_options: { include_usage: true },
        })
        stream.on('content', delta => void events.push(delta))
        const final = await stream.finalChatCompletion()
        expect(events).toEqual(['One', ' two'])
        expect(final.choices).toHaveLength(1)
        expect(final.choices[0]).toMatchObject({
          finish_reason: 'tool_calls',
          message: { role: 'assistant', content: 'One two' },
        })
        const calls = final.choices[0]?.message.tool_calls?.map(call =>
          call.type === 'function' ? call.function : undefined,
        )
        expect(calls).toMatchObject([
          { name: 'weather', arguments: '{"city":"Bern"}' },
          { name: 'weather', arguments: '{"city":"Rom"}' },
        ])
        expect(final.usage).toMatchObject({ prompt_tokens: 9, completion_tokens: 8 })
      })

      test('thinking is told as reasoning_content', async () => {
        const { ollama, sdk } = await start()
        ollama.next(think('Let me'), think(' see.'), say('42'), done())
        const answer = await sdk.chat.completions.create({
          ...chat,
          model: 'thinker',
          reasoning_effort: 'low',
        })
        expect(answer.choices[0]?.message).toMatchObject({ content: '42', reasoning_content: 'Let me see.' })
        expect(ollama.generating()[0]?.body['think']).toBe('low')
        expect(answer.usage?.completion_tokens_details?.reasoning_tokens).toBeGreaterThan(0)
      })

      test('n choices, each with its index', async () => {
        const { ollama, sdk } = await start()
        for (const text of ['one', 'two']) ollama.next(say(text), done({ prompt: 4, completion: 2 }))
        const final = await sdk.chat.completions
          .stream({ ...chat, n: 2, stream_options: { include_usage: true } })
          .finalChatCompletion()
        expect(final.choices.map(({ index, message }) => [index, message.content])).toEqual([
          [0, 'one'],
          [1, 'two'],
        ])
        expect(final.usage).toMatchObject({ prompt_tokens: 8, completion_tokens: 4 })
      })

      test('logprobs', async () => {
        const { ollama, sdk } = await start()
        ollama.replay('chat-top-logprobs')
        const answer = await sdk.chat.completions.create({ ...chat, logprobs: true, top_logprobs: 2 })
        expect(answer.choices[0]?.logprobs?.content?.map(({ token }) => token).join('')).toBe(
          answer.choices[0]?.message.content ?? '',
        )
        expect(answer.choices[0]?.logprobs?.content?.[0]?.top_logprobs).toHaveLength(2)
        expect(ollama.generating()[0]?.body).toMatchObject({ logprobs: true, top_logprobs: 2 })
      })

      test('all that the SDK can send by type is taken, and what has no effect is named', async () => {
        const { ollama, sdk } = await start()
        ollama.next(say('ok'))
        const { data, response } = await sdk.chat.completions
          .create({
            model: 'm',
            messages: [
              { role: 'developer', content: [{ type: 'text', text: 'Be brief.' }], name: 'dev' },
              { role: 'user', content: 'a' },
              { role: 'user', content: 'b', name: 'bob' },
              { role: 'assistant', content: null, refusal: 'No.' },
              { role: 'assistant', content: [{ type: 'refusal', refusal: 'Never.' }], tool_calls: [] },
              { role: 'user', content: '' },
            ],
            frequency_penalty: 0,
            presence_penalty: null,
            logit_bias: { '50256': -100 },
            max_completion_tokens: 0,
            max_tokens: -1,
            metadata: { a: 'b' },
            modalities: ['text'],
            n: 1,
            parallel_tool_calls: true,
            prediction: { type: 'content', content: 'x' },
            prompt_cache_key: 'k',
            reasoning_effort: 'none',
            response_format: { type: 'text' },
            safety_identifier: 's',
            service_tier: 'auto',
            stop: null,
            store: false,
            stream: false,
            stream_options: null,
            temperature: null,
            tool_choice: 'none',
            tools: [],
            top_p: 1,
            user: 'u',
            verbosity: 'low',
            web_search_options: {},
          })
          .withResponse()
        expect(data.choices[0]?.message.content).toBe('ok')
        expect(data.service_tier).toBe('default')
        const named = response.headers.get('x-ignored-parameters')?.split(', ')
        expect(named).toEqual(
          expect.arrayContaining([
            'logit_bias',
            'metadata',
            'prediction',
            'user',
            'verbosity',
            'messages.name',
          ]),
        )
        const sent = ollama.generating()[0]?.body
        expect(sent?.['messages']).toEqual([
          { role: 'system', content: 'Be brief.' },
          { role: 'user', content: 'a' },
          { role: 'user', content: 'b' },
          { role: 'assistant', content: 'No.' },
          { role: 'assistant', content: 'Never.' },
          { role: 'user', content: '' },
        ])
        expect(sent?.['options']).toEqual({ frequency_penalty: 0, top_p: 1 })
      })
    })

    describe('tools', () => {
      test('runTools calls the function and comes back with its result', async () => {
        const { ollama, proxy, key, sdk } = await start()
        ollama.next(
          say('I look.'),
          toolCall({ name: 'weather', arguments: { city: 'Bern' } }),
          toolCall({ name: 'weather', arguments: { city: 'Rom' }, id: 'call_b', index: 1 }),
          done(),
        )
        ollama.next(say('Sunny in both.'), done())
        const asked: string[] = []
        const runner = sdk.chat.completions.runTools({
          ...chat,
          tools: [
            zodFunction({
              name: 'weather',
              parameters: z.object({ city: z.string() }),
              function: ({ city }: { city: string }) => {
                asked.push(city)
                return `sunny in ${city}`
              },
            }),
          ],
        })
        expect(await runner.finalContent()).toBe('Sunny in both.')
        expect(asked).toEqual(['Bern', 'Rom'])
        const [first, second] = ollama.generating()
        expect(first?.body['tools']).toMatchObject([
          {
            type: 'function',
            function: {
              name: 'weather',
              parameters: { type: 'object', properties: { city: { type: 'string' } } },
            },
          },
        ])
        expect(second?.body['messages']).toMatchObject([
          { role: 'user' },
          {
            role: 'assistant',
            content: 'I look.',
            tool_calls: [
              { id: 'call_a1b2c3d4', function: { name: 'weather', arguments: { city: 'Bern' } } },
              { id: 'call_b' },
            ],
          },
          { role: 'tool', content: 'sunny in Bern', tool_call_id: 'call_a1b2c3d4', tool_name: 'weather' },
          { role: 'tool', content: 'sunny in Rom', tool_call_id: 'call_b', tool_name: 'weather' },
        ])
        expect(await historyOf(proxy, key)).toHaveLength(2)
      })

      test('runTools over a stream', async () => {
        const { ollama, sdk } = await start()
        ollama.next(toolCall({ name: 'weather', arguments: { city: 'Bern' }, id: null }), done())
        ollama.next(say('Sunny'), say('.'), done())
        const runner = sdk.chat.completions.runTools({
          ...chat,
          stream: true,
          tools: [
            zodFunction({
              name: 'weather',
              parameters: z.object({ city: z.string() }),
              function: ({ city }: { city: string }) => `sunny in ${city}`,
            }),
          ],
        })
        expect(await runner.finalContent()).toBe('Sunny.')
        const results = ollama.generating()[1]?.body['messages'] as {
          tool_call_id?: string
          tool_calls?: { id: string }[]
        }[]
        expect(results[1]?.tool_calls?.[0]?.id).toMatch(/^call_.{8,}/)
        expect(results[2]?.tool_call_id).toBe(String(results[1]?.tool_calls?.[0]?.id))
      })

      test('tool_choice: none offers nothing, a name only that tool', async () => {
        const { ollama, sdk } = await start()
        ollama.otherwise(say('x'))
        const other = { ...weather, function: { ...weather.function, name: 'time' } }
        await sdk.chat.completions.create({ ...chat, tools: [weather, other], tool_choice: 'none' })
        await sdk.chat.completions.create({
          ...chat,
          tools: [weather, other],
          tool_choice: { type: 'function', function: { name: 'time' } },
        })
        const offered = ollama.generating().map(({ body }) => body['tools'])
        expect(offered[0]).toBeUndefined()
        expect(offered[1]).toMatchObject([{ function: { name: 'time' } }])
      })

      test('parallel_tool_calls: false keeps the first', async () => {
        const { ollama, sdk } = await start()
        ollama.next(
          toolCall({ name: 'weather', arguments: { city: 'Bern' } }),
          toolCall({ name: 'weather', id: 'call_2', index: 1 }),
          done(),
        )
        const answer = await sdk.chat.completions.create({
          ...chat,
          tools: [weather],
          parallel_tool_calls: false,
        })
        expect(answer.choices[0]?.message.tool_calls).toHaveLength(1)
      })
    })

    describe('structured output', () => {
      const event = z.object({ name: z.string(), people: z.array(z.string()) })

      test('parse gives the object, and Ollama the schema', async () => {
        const { ollama, sdk } = await start()
        ollama.next(say('{"name":"Fair",'), say('"people":["Ann"]}'), done())
        const answer = await sdk.chat.completions.parse({
          ...chat,
          response_format: zodResponseFormat(event, 'event'),
        })
        expect(answer.choices[0]?.message.parsed).toEqual({ name: 'Fair', people: ['Ann'] })
        expect(ollama.generating()[0]?.body['format']).toMatchObject({
          type: 'object',
          properties: { name: { type: 'string' }, people: { type: 'array' } },
          required: ['name', 'people'],
        })
      })

      test('the stream() helper parses at the end', async () => {
        const { ollama, sdk } = await start()
        ollama.next(say('{"name":"Fair","people":[]}'), done())
        const stream = sdk.chat.completions.stream({
          ...chat,
          response_format: zodResponseFormat(event, 'event'),
        })
        expect((await stream.finalChatCompletion()).choices[0]?.message.parsed).toEqual({
          name: 'Fair',
          people: [],
        })
      })

      test('an answer cut by the limit says so', async () => {
        const { ollama, sdk } = await start()
        ollama.next(say('{"name":'), done({ reason: 'length' }))
        const error = await sdk.chat.completions
          .parse({ ...chat, max_completion_tokens: 3, response_format: zodResponseFormat(event, 'event') })
          .catch(thrown => thrown)
        expect(error.constructor.name).toBe('LengthFinishReasonError')
      })

      test('a schema that Ollama cannot take is a 400 that says why', async () => {
        const { ollama, sdk } = await start()
        ollama.next(status(500, { error: 'invalid JSON schema in format' }))
        const schema = { type: 'nonsense' }
        const error = await sdk.chat.completions
          .create({ ...chat, response_format: { type: 'json_schema', json_schema: { name: 'x', schema } } })
          .catch(thrown => thrown)
        expect(error).toBeInstanceOf(OpenAI.BadRequestError)
        expect(error.message).toMatch(/schema/i)
      })
    })

    describe('errors are the SDK’s own classes', () => {
      test('400 to 504', async () => {
        const { ollama, proxy, client, sdk } = await start({
          settings: { UPSTREAM_FIRST_BYTE_TIMEOUT_S: '30' },
        })
        const { body } = await proxy.admin('/admin/users/alice/keys', { json: { models: ['m'] } })
        const narrow = client({ apiKey: (body as { api_key: string }).api_key })
        const timeout = async () => {
          ollama.next(stall())
          const answer = sdk.chat.completions.create(chat).catch(thrown => thrown)
          const before = ollama.generating().length
          await ollama.arrived(before + 1)
          await proxy.until(() => proxy.server.inFlight === 1)
          proxy.pass(30_000)
          return answer
        }
        const failing = (...steps: Parameters<typeof ollama.next>) => {
          ollama.next(...steps)
          return sdk.chat.completions.create(chat)
        }
        const cases: [send: () => Promise<unknown>, type: unknown, status: number, code: string | null][] = [
          [
            () => sdk.chat.completions.create({ ...chat, messages: [] }),
            OpenAI.BadRequestError,
            400,
            'empty_array',
          ],
          [
            () => client({ apiKey: 'sk-alice-nonsense' }).chat.completions.create(chat),
            OpenAI.AuthenticationError,
            401,
            'invalid_api_key',
          ],
          [
            () => narrow.chat.completions.create({ ...chat, model: 'plain' }),
            OpenAI.PermissionDeniedError,
            403,
            'model_not_allowed',
          ],
          [
            () => sdk.chat.completions.create({ ...chat, model: 'nobody' }),
            OpenAI.NotFoundError,
            404,
            'model_not_found',
          ],
          [
            () => sdk.chat.completions.create({ ...chat, model: 'plain', tools: [weather] }),
            OpenAI.BadRequestError,
            400,
            'unsupported_parameter',
          ],
          [() => failing(reset()), OpenAI.InternalServerError, 502, 'upstream_error'],
          [
            () => failing(status(503, { error: 'server busy' })),
            OpenAI.InternalServerError,
            503,
            'overloaded',
          ],
          [timeout, OpenAI.InternalServerError, 504, 'upstream_timeout'],
        ]
        for (const [send, type, expected, code] of cases) {
          const error = (await send().catch(thrown => thrown)) as InstanceType<typeof OpenAI.APIError>
          expect(error).toBeInstanceOf(type as typeof OpenAI.APIError)
          expect([error.status, error.code]).toEqual([expected, code])
          expect(error.requestID).toMatch(/^req_/)
          expect(typeof error.type).toBe('string')
        }
      })

      test('a stream that dies raises, with its code', async () => {
        const { ollama, sdk } = await start()
        ollama.next(say('one'), pause(), reset())
        const stream = await sdk.chat.completions.create({ ...chat, stream: true })
        const read = async () => {
          for await (const chunk of stream) if (chunk.choices[0]?.delta.content === 'one') ollama.resume()
        }
        const error = await read().catch(thrown => thrown)
        expect(error).toBeInstanceOf(OpenAI.APIError)
        expect(error.code).toBe('upstream_error')
        ollama.next(say('one'), reset())
        expect(sdk.chat.completions.stream(chat).finalChatCompletion()).rejects.toBeInstanceOf(
          OpenAI.APIError,
        )
      })
    })

    describe('leaving', () => {
      test('abort stops Ollama', async () => {
        const { ollama, proxy, key, sdk } = await start()
        ollama.next(say('one'), stall())
        const stream = await sdk.chat.completions.create({ ...chat, stream: true })
        for await (const chunk of stream)
          if (chunk.choices[0]?.delta.content === 'one') stream.controller.abort()
        expect(await ollama.generating()[0]?.closed).toBe('hung up')
        await proxy.settled()
        expect((await historyOf(proxy, key))[0]).toMatchObject({ outcome: 'cancelled', completion_tokens: 1 })
      })

      test('a plain request aborted raises APIUserAbortError and stops Ollama', async () => {
        const { ollama, sdk } = await start()
        ollama.next(stall())
        const controller = new AbortController()
        const answer = sdk.chat.completions
          .create(chat, { signal: controller.signal })
          .catch(thrown => thrown)
        await ollama.arrived()
        controller.abort()
        expect(await answer).toBeInstanceOf(OpenAI.APIUserAbortError)
        expect(await ollama.generating()[0]?.closed).toBe('hung up')
      })

      test('the SDK’s own timeout stops Ollama', async () => {
        const { ollama, proxy, key, client } = await start()
        ollama.next(stall())
        const error = await client({ timeout: 300 })
          .chat.completions.create(chat)
          .catch(thrown => thrown)
        expect(error).toBeInstanceOf(OpenAI.APIConnectionTimeoutError)
        expect(await ollama.generating()[0]?.closed).toBe('hung up')
        await proxy.settled()
        expect((await historyOf(proxy, key))[0]).toMatchObject({ outcome: 'cancelled', completion_tokens: 0 })
      })
    })

    describe('retries', () => {
      test('a window’s refusal is retried after the time it names, and then served', async () => {
        const { ollama, proxy, key, attempts, client } = await start({
          limits: { ...noLimits, requests_per_minute: 1 },
        })
        ollama.otherwise(say('ok'), done())
        const waits: (string | null)[] = []
        const sdk = client({
          maxRetries: 2,
          after: answer => {
            if (answer.status !== 429) return undefined
            waits.push(answer.headers.get('retry-after-ms'), answer.headers.get('retry-after'))
            proxy.pass(Number(answer.headers.get('retry-after-ms')))
            return undefined
          },
        })
        await sdk.chat.completions.create(chat)
        proxy.pass(59_970)
        const answer = await sdk.chat.completions.create(chat)
        expect(answer.choices[0]?.message.content).toBe('ok')
        expect(attempts).toEqual([
          { retry: '0', status: 200 },
          { retry: '0', status: 429 },
          { retry: '1', status: 200 },
        ])
        expect(Number(waits[0])).toBeWithin(1, 1000)
        expect(waits[1]).toBe('1')
        expect(await historyOf(proxy, key)).toHaveLength(2)
      })

      test('a lifetime total that is used up, and a day that is full, are not retried', async () => {
        for (const limits of [{ total_token_limit: 100 }, { requests_per_day: 1 }]) {
          const { ollama, attempts, client } = await start({ limits: { ...noLimits, ...limits } })
          ollama.otherwise(say('ok'), done({ prompt: 96, completion: 4 }))
          const sdk = client({ maxRetries: 2 })
          await sdk.chat.completions.create({
            ...chat,
            max_tokens: 4,
            messages: [{ role: 'user', content: 'x' }],
          })
          const error = await sdk.chat.completions.create(chat).catch(thrown => thrown)
          expect(error).toBeInstanceOf(OpenAI.RateLimitError)
          expect(error.code).toBe(
            'total_token_limit' in limits ? 'insufficient_quota' : 'rate_limit_exceeded',
          )
          expect(attempts.map(({ status }) => status)).toEqual([200, 429])
        }
      })

      test('a failure before Ollama worked is retried: each attempt is a row, the failed one free', async () => {
        const { ollama, proxy, key, attempts, client } = await start()
        ollama.next(reset())
        ollama.next(say('ok'), done({ prompt: 5, completion: 2 }))
        // The proxy names no time here, so that the SDK would wait half a second of its own.
        const hasten = (answer: Response) => {
          if (answer.status !== 502) return undefined
          const headers = new Headers(answer.headers)
          expect(headers.get('x-should-retry')).toBeNull()
          headers.set('retry-after-ms', '1')
          return new Response(answer.body, { status: answer.status, headers })
        }
        await client({ maxRetries: 2, after: hasten }).chat.completions.create(chat)
        expect(attempts).toEqual([
          { retry: '0', status: 502 },
          { retry: '1', status: 200 },
        ])
        expect(await historyOf(proxy, key)).toMatchObject([
          { outcome: 'completed', total_tokens: 7 },
          { outcome: 'failed', total_tokens: 0 },
        ])
      })

      test('a failure after work was done is not', async () => {
        const { ollama, proxy, attempts, client } = await start()
        ollama.next(say('one'), say('two'), pause(), reset())
        const answer = client({ maxRetries: 2 })
          .chat.completions.create(chat)
          .catch(thrown => thrown)
        await ollama.reached()
        await proxy.turns(100)
        ollama.resume()
        expect(await answer).toBeInstanceOf(OpenAI.InternalServerError)
        expect(attempts).toHaveLength(1)
      })

      test('bad requests, wrong keys and unknown models are not', async () => {
        const { attempts, client } = await start()
        const sdk = client({ maxRetries: 2 })
        for (const body of [
          { ...chat, messages: [] },
          { ...chat, model: 'nobody' },
        ])
          await sdk.chat.completions.create(body).catch(() => undefined)
        await client({ maxRetries: 2, apiKey: 'x' })
          .models.list()
          .catch(() => undefined)
        expect(attempts.map(({ status }) => status)).toEqual([400, 404, 401])
      })
    })

    describe('raw responses', () => {
      test('withResponse and asResponse show the headers', async () => {
        const { ollama, sdk } = await start({
          limits: { ...noLimits, requests_per_minute: 9, tokens_per_minute: 5000 },
        })
        ollama.otherwise(say('ok'), done())
        const { data, response, request_id } = await sdk.chat.completions.create(chat).withResponse()
        expect(request_id).toBe(response.headers.get('x-request-id'))
        expect(data).toHaveProperty('_request_id', request_id)
        expect(response.headers.get('x-ratelimit-limit-requests')).toBe('9')
        expect(response.headers.get('x-ratelimit-remaining-requests')).toBe('8')
        expect(Number(response.headers.get('x-ratelimit-remaining-tokens'))).toBeWithin(1, 5000)
        const raw = await sdk.chat.completions.create({ ...chat, stream: true }).asResponse()
        expect(raw.headers.get('content-type')).toStartWith('text/event-stream')
        expect(await raw.text()).toEndWith('data: [DONE]\n\n')
      })
    })

    describe('models', () => {
      test('list pages through what Ollama has', async () => {
        const { sdk } = await start()
        const ids: string[] = []
        for await (const model of sdk.models.list()) ids.push(model.id)
        expect(ids.sort()).toEqual([
          'embedder',
          'hf.co/org/name:q4_k_m',
          'llama3.2:1b',
          'm',
          'plain',
          'thinker',
        ])
      })

      test('retrieve takes ids with / and :', async () => {
        const { sdk } = await start()
        for (const id of ['m', 'llama3.2:1b', 'hf.co/org/name:Q4_K_M', 'M:latest']) {
          const model = await sdk.models.retrieve(id)
          expect(model).toMatchObject({ object: 'model', id: id.toLowerCase().replace(':latest', '') })
          expect(Number.isInteger(model.created)).toBe(true)
        }
        expect(await sdk.models.retrieve('a/b:c').catch(thrown => thrown)).toBeInstanceOf(
          OpenAI.NotFoundError,
        )
      })
    })

    describe('embeddings', () => {
      test('as the SDK asks for them (base64), and as floats, are the same vectors in the order of the inputs', async () => {
        const { proxy, key, sdk } = await start()
        const input = ['one', 'two', 'one']
        const packed = await sdk.embeddings.create({ model: 'embedder', input })
        const floats = await sdk.embeddings.create({ model: 'embedder', input, encoding_format: 'float' })
        expect(packed.data.map(({ index }) => index)).toEqual([0, 1, 2])
        expect(packed.data[0]?.embedding).toHaveLength(32)
        expect(packed.data[0]?.embedding).toEqual(packed.data[2]?.embedding ?? [])
        expect(packed.data[0]?.embedding).not.toEqual(packed.data[1]?.embedding ?? [])
        const near = (a: number[], b: number[]) =>
          a.every((value, at) => Math.abs(value - (b[at] ?? Number.NaN)) < 1e-6)
        for (const [at, { embedding }] of floats.data.entries())
          expect(near(embedding, packed.data[at]?.embedding ?? [])).toBe(true)
        expect(packed.usage.prompt_tokens).toBeGreaterThan(0)
        expect((await historyOf(proxy, key))[0]).toMatchObject({
          prompt_tokens: packed.usage.prompt_tokens,
          completion_tokens: 0,
        })
      })

      test('dimensions, and a single text', async () => {
        const { sdk } = await start()
        const { data } = await sdk.embeddings.create({ model: 'embedder', input: 'one', dimensions: 8 })
        expect(data).toHaveLength(1)
        expect(data[0]?.embedding).toHaveLength(8)
      })

      test('of a model that makes none are a 400', async () => {
        const { ollama, sdk } = await start()
        ollama.nextAt('/api/embed', status(400, { error: '"m" does not support embeddings' }))
        expect(
          await sdk.embeddings.create({ model: 'm', input: 'x' }).catch(thrown => thrown),
        ).toBeInstanceOf(OpenAI.BadRequestError)
      })
    })

    describe('legacy completions', () => {
      test('plain, with echo and several prompts', async () => {
        const { ollama, proxy, key, sdk } = await start()
        for (const text of [' one', ' two']) ollama.next(say(text), done({ prompt: 3, completion: 2 }))
        const answer = await sdk.completions.create({
          model: 'm',
          prompt: ['a', 'b'],
          echo: true,
          max_tokens: 5,
        })
        expect(answer.object).toBe('text_completion')
        expect(answer.choices.map(({ index, text, finish_reason }) => [index, text, finish_reason])).toEqual([
          [0, 'a one', 'stop'],
          [1, 'b two', 'stop'],
        ])
        expect(answer.usage).toMatchObject({ prompt_tokens: 6, completion_tokens: 4, total_tokens: 10 })
        expect(await historyOf(proxy, key)).toMatchObject([{ id: answer.id, total_tokens: 10 }])
      })

      test('streamed', async () => {
        const { ollama, sdk } = await start()
        ollama.next(say('one'), say(' two'), done({ prompt: 3, completion: 3 }))
        let text = ''
        let usage: unknown
        for await (const chunk of await sdk.completions.create({
          model: 'm',
          prompt: 'a',
          stream: true,
          stream_options: { include_usage: true },
        })) {
          text += chunk.choices[0]?.text ?? ''
          usage = chunk.usage ?? usage
        }
        expect(text).toBe('one two')
        expect(usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 3 })
      })

      test('suffix goes to models that can fill in', async () => {
        const { ollama, sdk } = await start()
        ollama.next(say('b'))
        await sdk.completions.create({ model: 'm', prompt: 'a', suffix: 'c' })
        expect(ollama.generating()[0]?.body).toMatchObject({ prompt: 'a', suffix: 'c' })
        const error = await sdk.completions
          .create({ model: 'plain', prompt: 'a', suffix: 'c' })
          .catch(thrown => thrown)
        expect([error.status, error.param]).toEqual([400, 'suffix'])
      })
    })
  })
}
