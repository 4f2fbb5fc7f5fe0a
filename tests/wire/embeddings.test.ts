import { describe, expect, test } from 'bun:test'
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { ApiError } from '../../src/errors.ts'
import {
  parseEmbedAnswer,
  parseEmbeddingRequest,
  toEmbeddingList,
  toOllamaEmbed,
} from '../../src/wire/embeddings.ts'

const prepare = (body: unknown) => toOllamaEmbed(parseEmbeddingRequest(body))
const faultOf = (act: () => unknown) => {
  try {
    act()
  } catch (cause) {
    if (cause instanceof ApiError) return { status: cause.status, ...cause.body.error }
    throw cause
  }
  throw new Error('accepted')
}
const recorded = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../fixtures/captures/${name}/response.json`, import.meta.url), 'utf8'))
const decode = (base64: unknown): number[] => {
  const bytes = Uint8Array.from(atob(String(base64)), character => character.charCodeAt(0))
  const view = new DataView(bytes.buffer)
  return Array.from({ length: bytes.length / 4 }, (_, index) => view.getFloat32(index * 4, true))
}

describe('what a client sends becomes a request to /api/embed', () => {
  test('a string and an array of strings, in order', () => {
    expect(prepare({ model: 'E:v1', input: 'a' })).toEqual({
      request: { model: 'E:v1', input: ['a'] },
      encoding: 'float',
      ignored: [],
    })
    expect(prepare({ model: 'e', input: ['b', 'a', 'b'] }).request.input).toEqual(['b', 'a', 'b'])
    expect(prepare({ model: 'e', input: Array(2048).fill('x') }).request.input.length).toBe(2048)
  })

  test('dimensions and encoding_format; null means absent', () => {
    expect(prepare({ model: 'e', input: 'a', dimensions: 1, encoding_format: 'base64' })).toMatchObject({
      request: { dimensions: 1 },
      encoding: 'base64',
    })
    expect(prepare({ model: 'e', input: 'a', dimensions: null, encoding_format: null, user: null })).toEqual({
      request: { model: 'e', input: ['a'] },
      encoding: 'float',
      ignored: [],
    })
  })

  test('what has no effect is named', () => {
    const sent = { user: 'u', keep_alive: -1, truncate: false, options: { num_ctx: 9 } }
    const used = { model: 'e', input: 'a', dimensions: 1, encoding_format: 'float' }
    expect(prepare({ ...used, ...sent }).ignored).toEqual(Object.keys(sent))
    expect(prepare({ ...used, user: '', metadata: null }).ignored).toEqual([])
  })
})

describe('what cannot be embedded is refused by name', () => {
  test.each([
    [{ model: 'e' }, 'input', 'missing_required_parameter', /input/],
    [{ model: 'e', input: null }, 'input', 'missing_required_parameter', /input/],
    [{ input: 'a' }, 'model', 'missing_required_parameter', /model/],
    [{ model: 'e', input: '' }, 'input', 'invalid_value', /empty string/],
    [{ model: 'e', input: ['a', ''] }, 'input[1]', 'invalid_value', /empty string/],
    [{ model: 'e', input: [] }, 'input', 'empty_array', /at least one/],
    [{ model: 'e', input: Array(2049).fill('x') }, 'input', 'array_above_max_length', /2048/],
    [{ model: 'e', input: [1, 2, 3] }, 'input', 'invalid_value', /check_embedding_ctx_length=False/],
    [{ model: 'e', input: [[1, 2], [3]] }, 'input', 'invalid_value', /check_embedding_ctx_length=False/],
    [{ model: 'e', input: { text: 'a' } }, 'input', 'invalid_type', /got an object/],
    [{ model: 'e', input: ['a', null] }, 'input[1]', 'invalid_type', /got null/],
    [{ model: 'e', input: 'a', dimensions: 0 }, 'dimensions', 'integer_below_min_value', /1/],
    [{ model: 'e', input: 'a', dimensions: 1.5 }, 'dimensions', 'invalid_type', /integer/],
    [{ model: 'e', input: 'a', encoding_format: 'int8' }, 'encoding_format', 'invalid_value', /base64/],
  ])('%#', (body, param, code, message) => {
    const fault = faultOf(() => prepare(body))
    expect(fault).toMatchObject({ status: 400, type: 'invalid_request_error', param, code })
    expect(fault.message).toMatch(message)
  })
})

describe('what a client gets', () => {
  test('floats in the order of the inputs, with usage', () => {
    const answer = recorded('embed-array') as { embeddings: number[][]; prompt_eval_count: number }
    const list = toEmbeddingList(answer, {
      model: 'E',
      encoding: 'float',
      promptTokens: answer.prompt_eval_count,
    })
    expect(list).toMatchObject({ object: 'list', model: 'E', usage: { prompt_tokens: 7, total_tokens: 7 } })
    expect(list.data.map(({ object, index }) => [object, index])).toEqual([
      ['embedding', 0],
      ['embedding', 1],
      ['embedding', 2],
    ])
    expect(list.data.map(({ embedding }) => embedding)).toEqual(answer.embeddings)
  })

  test("base64 is byte for byte what Ollama's own /v1 sends", () => {
    const theirs = recorded('v1-embeddings-base64') as { data: { embedding: string }[] }
    const vector = decode(theirs.data[0]?.embedding)
    const ours = toEmbeddingList(
      { embeddings: [vector] },
      { model: 'e', encoding: 'base64', promptTokens: 3 },
    )
    expect(ours.data[0]?.embedding).toBe(String(theirs.data[0]?.embedding))
  })

  test('base64 decodes to the same numbers, as float32', () => {
    const vectors = fc.array(fc.array(fc.float({ noNaN: true, noDefaultInfinity: true }), { minLength: 1 }), {
      minLength: 1,
    })
    fc.assert(
      fc.property(vectors, embeddings => {
        const list = toEmbeddingList({ embeddings }, { model: 'e', encoding: 'base64', promptTokens: 0 })
        expect(list.data.map(({ embedding }) => decode(embedding))).toEqual(embeddings)
        expect(list.data.map(({ index }) => index)).toEqual(embeddings.map((_, index) => index))
      }),
    )
  })
})

describe("Ollama's answer is not trusted", () => {
  test.each([
    [undefined, 1],
    [null, 1],
    ['x', 1],
    [{}, 1],
    [{ embeddings: [] }, 1],
    [{ embeddings: [[1], [2]] }, 1],
    [{ embeddings: [[]] }, 1],
    [{ embeddings: [[1, null]] }, 1],
    [{ embeddings: ['AAAA'] }, 1],
  ])('%j for %p input is a 502', (answer, inputs) => {
    expect(faultOf(() => parseEmbedAnswer(answer, inputs))).toMatchObject({
      status: 502,
      code: 'upstream_error',
    })
  })

  test('one vector per input is taken as it is', () => {
    expect(
      parseEmbedAnswer(
        {
          embeddings: [
            [1, 0],
            [0, 1],
          ],
        },
        2,
      ),
    ).toEqual({
      embeddings: [
        [1, 0],
        [0, 1],
      ],
    })
  })
})
