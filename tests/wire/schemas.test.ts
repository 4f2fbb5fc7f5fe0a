import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { flattenSchema } from '../../src/wire/schemas.ts'

const person = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] }

describe('a flattened schema', () => {
  test('has its references inlined, and no definitions left', () => {
    const schema = {
      type: 'object',
      properties: {
        who: { $ref: '#/$defs/person', description: 'whom' },
        all: { items: { $ref: '#/definitions/p~1q' } },
      },
      $defs: { person },
      definitions: { 'p/q': { type: 'integer' } },
    }
    expect(flattenSchema(schema)).toEqual({
      type: 'object',
      properties: { who: { ...person, description: 'whom' }, all: { items: { type: 'integer' } } },
    })
  })

  test('says anyOf for oneOf, enum for const, and gathers allOf', () => {
    const schema = {
      oneOf: [{ const: 'a' }, { const: 0 }],
      anyOf: [{ type: 'null' }],
      properties: { x: { allOf: [{ $ref: '#/$defs/person' }, { required: ['age'] }], description: 'd' } },
      $defs: { person },
    }
    expect(flattenSchema(schema)).toEqual({
      anyOf: expect.arrayContaining([{ enum: ['a'] }, { enum: [0] }, { type: 'null' }]),
      properties: { x: { ...person, required: ['name', 'age'], description: 'd' } },
    })
  })

  test('leaves properties alone that are called like keywords', () => {
    const schema = {
      properties: { $ref: { type: 'string' }, const: { type: 'string' }, $defs: { type: 'string' } },
    }
    expect(flattenSchema(schema)).toEqual(schema)
  })

  test('leaves values alone that look like schemas', () => {
    const schema = { properties: { x: { default: { $ref: '#/nowhere' }, enum: [{ const: 1 }] } } }
    expect(flattenSchema(schema)).toEqual(schema)
  })

  test('of a type that contains itself ends', () => {
    const node = {
      type: 'object',
      description: 'a node',
      properties: { next: { $ref: '#/$defs/node' }, root: { $ref: '#' } },
    }
    const leaf = { type: 'object', description: 'a node' }
    expect(
      flattenSchema({ type: 'object', properties: { head: { $ref: '#/$defs/node' } }, $defs: { node } }),
    ).toEqual({
      type: 'object',
      properties: { head: { ...node, properties: { next: leaf, root: { type: 'object' } } } },
    })
  })

  test('without its target keeps what stands beside the reference', () => {
    for (const $ref of ['#/$defs/none', 'https://example.com/schema.json', '#/%zz', '', '#/type'])
      expect(flattenSchema({ type: 'object', properties: { x: { $ref, description: 'd' } } })).toEqual({
        type: 'object',
        properties: { x: { description: 'd' } },
      })
  })

  test('that would grow without bound is none', () => {
    const $defs = Object.fromEntries(
      Array.from({ length: 30 }, (_, i) => {
        const next = { $ref: `#/$defs/d${i + 1}` }
        return [`d${i}`, { properties: { a: next, b: next } }]
      }),
    )
    const started = performance.now()
    expect(flattenSchema({ $ref: '#/$defs/d0', $defs })).toBeUndefined()
    expect(performance.now() - started).toBeLessThan(200)
  })

  test('holds none of the words that Ollama drops, whatever it was, and twice is once', () => {
    const leaf = fc.record(
      {
        type: fc.constantFrom('object', 'string', ['string', 'null']),
        description: fc.string(),
        const: fc.oneof(fc.integer(), fc.string()),
        $ref: fc.constantFrom('#', '#/$defs/a', '#/$defs/b', '#/$defs/c', 'x'),
      },
      { requiredKeys: [] },
    )
    const within = (inner: fc.Arbitrary<object>): fc.Arbitrary<Record<string, unknown>> =>
      fc
        .record(
          {
            oneOf: fc.array(inner, { maxLength: 2 }),
            allOf: fc.array(inner, { maxLength: 2 }),
            anyOf: fc.array(inner, { maxLength: 2 }),
            items: fc.oneof(inner, fc.boolean()),
            properties: fc.dictionary(fc.constantFrom('x', 'y', '__proto__'), inner, { maxKeys: 2 }),
            $defs: fc.dictionary(fc.constantFrom('a', 'b'), inner, { maxKeys: 2 }),
          },
          { requiredKeys: [] },
        )
        .chain(outer => leaf.map(fields => ({ ...fields, ...outer })))
    const schema = within(within(leaf))
    const dropped = (value: unknown): boolean => {
      if (typeof value !== 'object' || value === null) return false
      if (['oneOf', 'allOf', '$ref', 'const', '$defs'].some(word => Object.hasOwn(value, word))) return true
      return Object.values(value).some(dropped)
    }
    fc.assert(
      fc.property(schema, value => {
        const json = JSON.stringify(value)
        const flat = flattenSchema(value)
        expect(JSON.stringify(value)).toBe(json)
        if (flat === undefined) return
        expect(dropped(flat)).toBe(false)
        expect(flattenSchema(flat)).toEqual(flat)
      }),
      { numRuns: 300 },
    )
  })
})
