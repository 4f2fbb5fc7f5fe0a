import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { createLineDecoder, encodeEvent, LineError } from '../../src/wire/framing.ts'
import type { Line } from '../../src/wire/ollama.ts'
import { capturedBytes, chatAnswers, decode } from './captures.ts'

const utf8 = new TextEncoder()

/** Cuts at the given places, given as fractions. */
const cut = (bytes: Uint8Array, fractions: readonly number[]): Uint8Array[] => {
  const places = [...new Set(fractions.map(fraction => Math.floor(fraction * bytes.length)))].sort(
    (a, b) => a - b,
  )
  return [0, ...places].map((start, index) => bytes.subarray(start, places[index] ?? bytes.length))
}

const pushAll = (pieces: readonly Uint8Array[], lineBytesMax = 1 << 20): Line[] => {
  const decoder = createLineDecoder({ lineBytesMax })
  return [...pieces.flatMap(piece => decoder.push(piece)), ...decoder.end()]
}

/** What came out, and how it ended: also a failing decoder must not depend on how its bytes were split. */
const story = (pieces: readonly Uint8Array[], lineBytesMax: number) => {
  const decoder = createLineDecoder({ lineBytesMax })
  const lines: Line[] = []
  try {
    for (const piece of pieces) lines.push(...decoder.push(piece))
    lines.push(...decoder.end())
    return { lines, fault: null }
  } catch (error) {
    if (!(error instanceof LineError)) throw error
    return { lines: [...lines, ...error.before], fault: error.kind }
  }
}

const fault = (run: () => unknown): LineError => {
  try {
    run()
  } catch (error) {
    if (error instanceof LineError) return error
  }
  throw new Error('no LineError was thrown')
}

describe('the line decoder', () => {
  test('gives every recorded answer the same lines when it comes byte by byte', () => {
    for (const file of chatAnswers()) {
      const bytes = capturedBytes(file)
      const single = Array.from(bytes, (_, index) => bytes.subarray(index, index + 1))
      expect(pushAll(single)).toEqual(decode(bytes))
    }
  })

  test('any byte split of any JSON lines gives the same lines, and the same fault', () => {
    const line = fc.dictionary(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), { maxKeys: 3 })
    const text = fc.oneof(
      { weight: 9, arbitrary: line.map(value => JSON.stringify(value)) },
      fc.constant('{'),
    )
    const fractions = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 8 })
    fc.assert(
      fc.property(
        fc.array(text, { maxLength: 6 }),
        fc.boolean(),
        fractions,
        fc.nat(120),
        (texts, tail, places, max) => {
          const bytes = utf8.encode(texts.join('\n') + (tail ? '\n' : ''))
          expect(story(cut(bytes, places), max)).toEqual(story([bytes], max))
        },
      ),
      { numRuns: 500 },
    )
  })

  test('the bound is on bytes, to the byte, wherever a read ends', () => {
    const line = `{"a":"${'ü'.repeat(10)}"}`
    const bytes = utf8.encode(`${line}\n{}\n`)
    const size = utf8.encode(line).length
    for (let place = 0; place <= bytes.length; place++) {
      const pieces = [bytes.subarray(0, place), bytes.subarray(place)]
      expect(pushAll(pieces, size)).toHaveLength(2)
      expect(story(pieces, size - 1)).toEqual({ lines: [], fault: 'too_long' })
    }
  })

  test('a line without end is refused as soon as it passes the bound', () => {
    const decoder = createLineDecoder({ lineBytesMax: 1000 })
    decoder.push(new Uint8Array(1000).fill(32))
    expect(fault(() => decoder.push(new Uint8Array(1))).kind).toBe('too_long')
  })

  test('the good lines of a read whose last line is garbage are not lost', () => {
    const error = fault(() =>
      createLineDecoder({ lineBytesMax: 1000 }).push(utf8.encode('{"done":false}\n<html>\n')),
    )
    expect(error.kind).toBe('not_json')
    expect(error.before).toEqual([{ done: false }])
  })

  test('JSON that is not an object is not a line', () => {
    for (const text of ['null', '[]', '1', '"x"', 'true'])
      expect(fault(() => decode(utf8.encode(text))).kind).toBe('not_json')
  })

  test('blank lines and carriage returns are nothing', () => {
    expect(decode(utf8.encode('\n\r\n{"done":true}\r\n\n'))).toEqual([{ done: true }])
  })

  test('a line of one megabyte in small reads is joined once', () => {
    const bytes = utf8.encode(`{"response":"${'x'.repeat(1_000_000)}"}\n`)
    const pieces = Array.from({ length: Math.ceil(bytes.length / 100) }, (_, i) =>
      bytes.subarray(i * 100, i * 100 + 100),
    )
    const started = performance.now()
    expect(pushAll(pieces, 8 << 20)).toHaveLength(1)
    // Joining at each read would copy 5 GB; the wide margin is for a loaded machine.
    expect(performance.now() - started).toBeLessThan(500)
  })
})

describe('an event', () => {
  test('holds no character that anybody takes for a line end, and says the same', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), text => {
        const event = encodeEvent(JSON.stringify({ text: `\u2028${text}\u0085\u2029` }))
        expect(event.endsWith('\n\n')).toBe(true)
        const body = event.slice('data: '.length, -2)
        // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what Python's splitlines splits at
        expect(/[\n\r\v\f\u001c-\u001e\u0085\u2028\u2029]/.test(body)).toBe(false)
        expect(JSON.parse(body)).toEqual({ text: `\u2028${text}\u0085\u2029` })
      }),
    )
  })
})
