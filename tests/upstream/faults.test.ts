import { describe, expect, test } from 'bun:test'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import type { FaultContext } from '../../src/upstream/fault-rules.ts'
import { toApiError, toStreamFault } from '../../src/upstream/faults.ts'

const chat: FaultContext = { model: 'm', usesImages: false }
const json = (error: unknown) => JSON.stringify({ error })
const nested = (error: object) => json(JSON.stringify({ error }))

const shownFor = (status: number, text: string, context: FaultContext = chat) => {
  const fault = toApiError(status, text, context)
  return { status: fault.status, ...fault.body.error }
}

// ---- recordings

const captures = new URL('../fixtures/captures/', import.meta.url)
type Recorded = { name: string; path: string; status: number; text: string; body: Record<string, unknown> }

const readCase = (name: string): Recorded[] => {
  const folder = new URL(`${name}/`, captures)
  if (!existsSync(new URL('request.json', folder)))
    return readdirSync(folder, { withFileTypes: true }).flatMap(step =>
      step.isDirectory() ? readCase(`${name}/${step.name}`) : [],
    )
  const read = (file: string) =>
    existsSync(new URL(file, folder)) ? readFileSync(new URL(file, folder), 'utf8') : undefined
  const { path, body = {} } = JSON.parse(read('request.json') ?? '{}')
  const { status } = JSON.parse(read('response.headers.json') ?? '{}')
  return [
    { name, path, status: status ?? 0, text: read('response.json') ?? read('response.txt') ?? '', body },
  ]
}

const generating = ['/api/chat', '/api/generate', '/api/embed']
const failures = readdirSync(captures, { withFileTypes: true })
  .flatMap(entry => (entry.isDirectory() ? readCase(entry.name) : []))
  .filter(({ status, path }) => status >= 400 && generating.includes(path))

/** Case → status, code, param. */
const expected: Record<string, [status: number, code: string | null, param: string | null]> = {
  'chat-arguments-string': [400, null, null],
  'chat-bad-keep-alive': [400, null, null],
  'chat-cloud-model': [403, 'model_not_allowed', 'model'],
  'chat-content-parts': [400, null, 'messages'],
  'chat-empty-model': [400, 'missing_required_parameter', 'model'],
  'chat-format-bad-schema': [400, 'invalid_value', 'response_format'],
  'chat-format-unknown-word': [400, 'invalid_value', 'response_format'],
  'chat-image-bad-base64': [400, 'invalid_base64_image', 'messages'],
  'chat-invalid-json': [400, null, null],
  'chat-invalid-model-name': [404, 'model_not_found', 'model'],
  'chat-no-body': [400, null, null],
  'chat-on-embedding-model': [400, 'unsupported_parameter', 'model'],
  'chat-options-list': [400, null, null],
  'chat-overflow-truncate-false': [400, 'context_length_exceeded', 'messages'],
  'chat-overflow-truncate-false-stream': [400, 'context_length_exceeded', 'messages'],
  'chat-stop-string-type': [400, 'invalid_type', 'stop'],
  'chat-temperature-string': [400, 'invalid_type', 'temperature'],
  'chat-think-bad-word': [400, 'invalid_value', 'reasoning_effort'],
  'chat-think-unsupported': [400, 'unsupported_parameter', 'reasoning_effort'],
  'chat-tools-unsupported': [400, 'unsupported_parameter', 'tools'],
  'chat-top-logprobs-too-many': [400, 'invalid_value', 'top_logprobs'],
  'chat-unknown-model': [404, 'model_not_found', 'model'],
  'embed-array-with-empty': [400, 'invalid_value', 'input'],
  'embed-overflow-truncate-false': [400, 'context_length_exceeded', 'input'],
  'embed-tokens': [400, 'invalid_value', 'input'],
  'embed-unknown-model': [404, 'model_not_found', 'model'],
  'fault-runner-killed-no-stream/1-killed': [502, 'upstream_error', null],
  'generate-empty-model': [404, 'model_not_found', 'model'],
  'generate-on-embedding-model': [400, 'unsupported_parameter', 'model'],
  'generate-raw-with-system': [400, null, null],
  'generate-suffix-unsupported': [400, 'unsupported_parameter', 'suffix'],
  'generate-unknown-model': [404, 'model_not_found', 'model'],
  'newengine-chat-overflow-truncate-false': [400, 'context_length_exceeded', 'messages'],
  'queue-overflow-other-model/4-other-model': [503, 'overloaded', null],
  'queue-overflow-other-model/5-other-model': [503, 'overloaded', null],
  'wrong-method': [502, 'upstream_error', null],
}

describe('every recorded refusal of a real Ollama', () => {
  test('is in the table', () => {
    expect(failures.map(({ name }) => name).sort()).toEqual(Object.keys(expected).sort())
  })

  const promptParams = { '/api/chat': 'messages', '/api/generate': 'prompt', '/api/embed': 'input' } as const
  for (const { name, path, status, text, body } of failures)
    test(name, () => {
      const context: FaultContext = {
        model: String(body['model'] ?? 'm'),
        usesImages: name.includes('image'),
        promptParam: promptParams[path as keyof typeof promptParams],
      }
      const shown = shownFor(status, text, context)
      expect([shown.status, shown.code, shown.param]).toEqual(expected[name] ?? [0, null, null])
      expect(shown.message).toMatch(/^[A-Z].*\.$/)
      expect(shown.message).not.toMatch(
        /registry\.ollama\.ai|Go struct|json:|cannot unmarshal|EOF|looking for|brackets/,
      )
    })
})

// ---- what was not recorded (ollama-api.md §2.5–2.7)

describe('the context is exceeded', () => {
  const overflow = {
    code: 400,
    message: 'request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it',
    type: 'exceed_context_size_error',
    n_prompt_tokens: 9000,
    n_ctx: 4096,
  }

  test("the runner's error inside Ollama's names both sizes, in words that clients look for", () => {
    expect(shownFor(400, nested(overflow))).toEqual({
      status: 400,
      type: 'invalid_request_error',
      code: 'context_length_exceeded',
      param: 'messages',
      message:
        "This model's maximum context length is 4096 tokens; this request needs about 9000. Shorten the messages or lower max_tokens.",
    })
  })

  test('what Ollama does not say is taken from what we know, and left out where we know nothing', () => {
    const text = json('the input length exceeds the context length')
    const sized = shownFor(400, text, {
      ...chat,
      promptParam: 'input',
      contextLength: 512,
      promptTokens: 900,
    })
    expect(sized.message).toMatch(
      /maximum context length is 512 tokens; this request needs about 900\. Shorten the input/,
    )
    const known = shownFor(400, text, { ...chat, contextLength: 512, promptTokens: 400 })
    expect(known.message).toMatch(/is 512 tokens\. Shorten/)
    expect(shownFor(400, text).message).toMatch(/^This model's maximum context length is exceeded/)
  })

  test.each([
    [400, json('prompt is longer than the available context length')],
    [400, json('input length (900 tokens) exceeds the model context window (512 tokens)')],
    [500, nested({ ...overflow, n_ctx: undefined, n_prompt_tokens: undefined })],
  ])('%p %s', (status, text) => {
    expect(shownFor(status, text)).toMatchObject({ status: 400, code: 'context_length_exceeded' })
  })
})

describe('what the model lacks', () => {
  test.each([
    [400, json('registry.ollama.ai/library/x:latest does not support thinking'), 'reasoning_effort'],
    [400, json('x does not support insert\nx does not support tools'), 'suffix'],
    [501, json('This server does not support embeddings. Start it with `--embeddings`'), 'model'],
    [400, json('"x" does not support generate'), 'model'],
  ])('%p %s', (status, text, param) => {
    expect(shownFor(status, text)).toMatchObject({ status: 400, code: 'unsupported_parameter', param })
  })

  test.each([
    [
      500,
      json('image input is not supported - hint: if this is unexpected, you may need to provide the mmproj'),
    ],
    [400, json('this model does not support image input')],
    [400, json('"x" does not support vision')],
  ])('images: %p %s', (status, text) => {
    expect(shownFor(status, text)).toMatchObject({
      status: 400,
      code: 'unsupported_value',
      param: 'messages',
    })
  })
})

describe('faults of the request that Ollama or its runner calls their own', () => {
  test.each([
    [
      500,
      json('option "num_predict" must be of type integer'),
      'invalid_type',
      'max_tokens',
      /expected an integer/,
    ],
    [500, json('option "top_p" must be of type float32'), 'invalid_type', 'top_p', /expected a number/],
    [
      500,
      nested({ message: 'Failed to load image or audio file' }),
      'image_parse_error',
      'messages',
      /decoded/,
    ],
    [500, json('webp: invalid format'), 'image_parse_error', 'messages', /decoded/],
    [
      400,
      nested({ code: 400, message: 'JSON schema conversion failed:\nUnrecognized schema: {"type":"no"}' }),
      'invalid_value',
      'response_format',
      /^Invalid schema for response_format: JSON schema conversion failed/,
    ],
    [
      500,
      json('failed to load grammar from /usr/share/ollama/.ollama/tmp/x: bad token'),
      'invalid_value',
      'response_format',
      /^Invalid schema for response_format: the model server cannot turn it into a grammar\.$/,
    ],
    [
      400,
      nested({ message: 'Assistant response prefill is incompatible with enable_thinking.' }),
      'invalid_value',
      'messages',
      /cannot go on from an assistant message/,
    ],
    [
      500,
      nested({ message: 'Conversation roles must alternate user/assistant/user/assistant/...' }),
      'invalid_value',
      'messages',
      /must alternate/,
    ],
    [
      400,
      json('logprobs is not supported with tools + stream'),
      'unsupported_parameter',
      'logprobs',
      /tools/,
    ],
    [
      400,
      json(
        'json: cannot unmarshal number into Go struct field ChatRequest.tools.function.parameters of type x',
      ),
      null,
      'tools',
      /did not accept this request\.$/,
    ],
    [
      400,
      nested({ code: 400, message: 'Too many of them', type: 'x' }),
      null,
      null,
      /request: Too many of them\.$/,
    ],
    [400, json('use either :local or :cloud, not both: "x"'), 'model_not_found', 'model', /does not exist/],
  ])('%p %s', (status, text, code, param, message) => {
    const shown = shownFor(status, text, { ...chat, usesImages: true })
    expect(shown).toMatchObject({ type: 'invalid_request_error', code, param })
    expect(shown.status).toBe(code === 'model_not_found' ? 404 : 400)
    expect(shown.message).toMatch(message)
  })

  test('without images in the request a broken image is not the reason', () => {
    expect(shownFor(500, json('failed to mmap model image'))).toMatchObject({ status: 502 })
  })
})

describe('faults that are not of the request', () => {
  test.each([
    [
      401,
      JSON.stringify({ error: 'unauthorized', signin_url: 'https://ollama.com/connect?name=host&key=k' }),
    ],
    [403, ''],
    [404, '404 page not found'],
    [404, nested({ code: 404, message: 'File Not Found', type: 'not_found_error' })],
    [405, '405 method not allowed'],
    [499, json('request canceled')],
    [500, ''],
    [500, json('llama runner process has terminated: exit status 2')],
    [502, '<html><body><h1>Bad Gateway</h1></body></html>'],
    [301, ''],
  ])('%p %s is a 502', (status, text) => {
    expect(shownFor(status, text)).toMatchObject({
      status: 502,
      type: 'server_error',
      code: 'upstream_error',
      param: null,
    })
  })

  test('embeddings: a 400 that does not say what is wrong with the request is a failure of the server', () => {
    const embed: FaultContext = { ...chat, promptParam: 'input' }
    expect(shownFor(400, json('EOF'), embed).status).toBe(502)
    expect(
      shownFor(
        400,
        json('json: cannot unmarshal string into Go struct field EmbedRequest.dimensions of type int'),
        embed,
      ),
    ).toMatchObject({ status: 400, param: 'dimensions' })
  })

  test('too little memory is said in so many words', () => {
    const text = json('model requires more system memory (9.9 GiB) than is available (3.1 GiB)')
    expect(shownFor(500, text)).toMatchObject({
      status: 502,
      message: expect.stringMatching(/not have enough memory/),
    })
  })

  test('busy, loading, or limited elsewhere: 503 with a time to come back, never called a rate limit', () => {
    for (const [status, text] of [
      [503, json('server busy, please try again.  maximum pending requests exceeded')],
      [503, nested({ code: 503, message: 'Loading model', type: 'unavailable_error' })],
      [429, JSON.stringify({ StatusCode: 429, Status: '429 Too Many Requests', error: 'rate limit' })],
    ] as const) {
      const fault = toApiError(status, text, chat)
      expect(fault.status).toBe(503)
      expect(fault.body.error.code).toBe('overloaded')
      expect(fault.headers['retry-after']).toMatch(/^[1-9]\d*$/)
      expect(fault.body.error.message).not.toMatch(/rate limit|429/i)
    }
  })
})

describe('an error line inside a stream', () => {
  const streamed = (text: string) => {
    const fault = toStreamFault(text)
    return { status: fault.status, ...fault.body.error }
  }

  test('the recorded one', () => {
    const file = new URL('fault-runner-killed-stream/1-killed/response.ndjson', captures)
    const last = JSON.parse(readFileSync(file, 'utf8').trim().split('\n').at(-1) ?? '{}')
    expect(streamed(last.error)).toEqual({
      status: 502,
      type: 'server_error',
      code: 'upstream_error',
      param: null,
      message: 'The model server failed in the middle of the answer.',
    })
  })

  test.each([
    ["error parsing tool call: raw='{', err=unexpected EOF", 502, 'upstream_error', /tool call/],
    ['llama-server returned invalid tool call arguments for "f": x', 502, 'upstream_error', /tool call/],
    ['llama-server chat error: map[code:500 message:x]', 502, 'upstream_error', /middle of the answer/],
    ['CUDA error: out of memory', 502, 'upstream_error', /enough memory/],
    ['the input length exceeds the context length', 400, 'context_length_exceeded', /maximum context length/],
    [
      '{"error":{"type":"exceed_context_size_error","n_ctx":5,"message":"x"}}',
      400,
      'context_length_exceeded',
      /is 5 tokens/,
    ],
    ['', 502, 'upstream_error', /middle of the answer/],
  ])('%s', (text, status, code, message) => {
    expect(streamed(text)).toMatchObject({ status, code })
    expect(streamed(text).message).toMatch(message)
  })
})

describe('what nobody outside may read', () => {
  const secrets = [
    ...[
      '/usr/share/ollama/.ollama/models/blobs/sha256-0123456789abcdef',
      'C:\\Users\\me\\.ollama',
      '~/models',
      '/opt/x',
    ],
    ...[
      'http://10.0.0.7:11434/api',
      'gpu-box:11434',
      '10.0.0.7',
      '[fe80::1]:11434',
      'server.internal',
      'box.lan',
    ],
    ...[
      'goroutine 7 [running]:',
      'server/routes.go:123',
      'map[code:500]',
      'https://ollama.com/connect?key=AAAA',
    ],
    ...['dial tcp', 'deadbeefdeadbeefdeadbeef'],
  ]
  const openings = [
    ...[
      '',
      'JSON schema conversion failed: ',
      'failed to parse grammar ',
      'invalid format: ',
      'x does not support ',
    ],
    ...[
      'option "stop" must be of type ',
      'illegal base64 data at ',
      'llama runner process has terminated: ',
      'image ',
    ],
    ...[
      'exceeds the context length ',
      'json: cannot unmarshal x into Go struct field ChatRequest.',
      'out of memory ',
    ],
  ]
  const wrap = fc.constantFrom<(text: string) => string>(
    text => text,
    text => json(text),
    text => nested({ message: text }),
    text => json({ message: text }),
    text => JSON.stringify({ error: text, signin_url: text, Status: text }),
  )
  const statuses = fc.constantFrom(400, 401, 403, 404, 405, 429, 499, 500, 501, 502, 503)
  const contexts = fc.record({
    model: fc.constant('m'),
    usesImages: fc.boolean(),
    promptParam: fc.constantFrom('messages' as const, 'prompt' as const, 'input' as const),
  })

  test('whatever Ollama writes, a message holds no path, address, digest or code', () => {
    const text = fc.tuple(
      fc.constantFrom(...openings),
      fc.constantFrom('', '"', '(', ' at '),
      fc.constantFrom(...secrets),
    )
    fc.assert(
      fc.property(statuses, text, wrap, contexts, (status, [opening, between, secret], around, context) => {
        const body = around(opening + between + secret)
        for (const fault of [toApiError(status, body, context), toStreamFault(body)]) {
          expect(fault.body.error.message).not.toContain(secret)
          expect(String(fault.cause)).toContain('Ollama') // the log has it
        }
      }),
      { numRuns: 2000 },
    )
  })

  test('any body whatever gives a bounded, printable sentence', () => {
    fc.assert(
      fc.property(
        statuses,
        fc.string({ unit: 'binary', maxLength: 400 }),
        wrap,
        contexts,
        (status, text, around, context) => {
          const { message } = toApiError(status, around(text), context).body.error
          expect(message.length).toBeLessThan(400)
          expect(message).not.toMatch(/\p{Cc}/u)
        },
      ),
      { numRuns: 2000 },
    )
  })

  test('a megabyte of model name or of error stays short', () => {
    const fault = toApiError(404, json('x'.repeat(1_000_000)), { ...chat, model: 'm'.repeat(1_000_000) })
    expect(fault.body.error.message.length).toBeLessThan(300)
    expect(String(fault.cause).length).toBeLessThan(5000)
  })
})
