import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { isCloudModel, toCanonicalModel } from '../../src/wire/model-name.ts'

describe('every spelling Ollama takes for a model is one model', () => {
  const spellings: Record<string, string[]> = {
    llama3: [
      ...['llama3', 'LLAMA3', 'llama3:latest', 'Llama3:Latest', 'llama3:local', 'llama3:latest:local'],
      ...['library/llama3', 'registry.ollama.ai/library/llama3:latest', 'Registry.Ollama.AI/Library/llama3'],
      ...['https://registry.ollama.ai/library/llama3', 'http://llama3', 'llama3@sha256:0123abcd'],
      ...[' llama3 ', 'llama3\n', '\u0085llama3\u0085', 'llama3 :local', 'registry.ollama.ai/llama3'],
    ],
    'llama3.2:1b': [
      'llama3.2:1b',
      'LLAMA3.2:1B',
      'library/llama3.2:1b',
      'llama3.2:1b:local',
      'llama3.2:1b@sha256:00',
    ],
    'hf.co/org/name:q4_k_m': [
      'hf.co/org/name:Q4_K_M',
      'HF.co/Org/Name:q4_k_m',
      'https://hf.co/org/name:Q4_K_M',
    ],
    'team/model': ['team/model', 'registry.ollama.ai/team/model:latest', 'Team/Model'],
    'library/team/model': ['library/team/model', 'library/team/model:latest'],
    'host.example:5000/ns/model': ['host.example:5000/ns/model', 'http://host.example:5000/ns/model:latest'],
  }
  for (const [canonical, names] of Object.entries(spellings))
    test(canonical, () => {
      for (const name of names) expect([name, toCanonicalModel(name)]).toEqual([name, canonical])
    })
})

test('different models stay different', () => {
  const names = [
    'llama3',
    'llama3:8b',
    'llama3:latest-q4',
    'team/llama3',
    'hf.co/library/llama3',
    'latest',
    'llama3-local',
  ]
  expect(new Set(names.map(toCanonicalModel)).size).toBe(names.length)
})

const pieces = fc.constantFrom(
  ...[
    'library/',
    'registry.ollama.ai/',
    'http://',
    'https://',
    ':latest',
    ':local',
    ':cloud',
    '-cloud',
    '@',
    'sha256:1',
  ],
  ...['/', ':', 'Llama3', 'x', ' ', '\u0085', '\t', 'İ', 'ß', 'cloud', '-'],
)
const anyName = fc.oneof(
  fc.string(),
  fc.array(pieces, { maxLength: 8 }).map(parts => parts.join('')),
)

test('a canonical name is its own canonical name', () => {
  fc.assert(
    fc.property(anyName, name => {
      const canonical = toCanonicalModel(name)
      expect(toCanonicalModel(canonical)).toBe(canonical)
    }),
    { numRuns: 2000 },
  )
})

test('no prefix, suffix, case or space hides a cloud model', () => {
  const names = [
    ...['gpt-oss:120b-cloud', 'kimi-k2:cloud', 'glm-4.6-cloud', 'KIMI-K2:CLOUD', 'gpt-oss:120B-Cloud'],
    ...[' kimi-k2:cloud', 'kimi-k2:cloud ', 'kimi-k2:cloud\u0085', 'kimi-k2: cloud', 'kimi-k2:cloud\u00a0'],
    ...[
      'library/kimi-k2:cloud',
      'registry.ollama.ai/library/kimi-k2:cloud',
      'https://ollama.com/library/kimi-k2:cloud',
    ],
    ...[
      'kimi-k2:\u0085cloud',
      'kimi-k2:cloud:latest',
      'kimi-k2:cloud:local',
      'kimi-k2-cloud:latest',
      'kimi-k2:cloud@sha256:00',
    ],
    ...['team/kimi-k2:1t-cloud', 'kimi-k2::cloud', 'kimi-k2:-cloud'],
  ]
  for (const name of names) expect([name, isCloudModel(name)]).toEqual([name, true])
  const decorated = fc.tuple(
    fc.constantFrom(
      '',
      ' ',
      'library/',
      'http://',
      'registry.ollama.ai/',
      '\u0085',
      'REGISTRY.ollama.ai/library/',
    ),
    fc.constantFrom('m:cloud', 'm:1b-cloud', 'M:Cloud', 'm-CLOUD'),
    fc.constantFrom('', ' ', ':latest', ':local', '@sha256:00', '\u0085', ':LATEST:local '),
  )
  fc.assert(fc.property(decorated, parts => isCloudModel(parts.join(''))))
})

test('a model of this machine is no cloud model', () => {
  for (const name of ['llama3', 'cloud', 'cloudy:latest', 'cloud/model', 'm:cloud-1b', 'mycloud', 'm:1b', ''])
    expect([name, isCloudModel(name)]).toEqual([name, false])
})

test('a megabyte of name is canonical in a moment', () => {
  const started = performance.now()
  for (const piece of [
    ':latest',
    ':local',
    ' ',
    'registry.ollama.ai/',
    'http://',
    'library/',
    ':',
    '@',
    '\u0085x',
  ])
    toCanonicalModel(piece.repeat(1_000_000 / piece.length))
  expect(performance.now() - started).toBeLessThan(2000)
})
