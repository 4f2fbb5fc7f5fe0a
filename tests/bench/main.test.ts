import { expect, test } from 'bun:test'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { loadNames } from '../../bench/loads.ts'
import { canReadSlowly } from '../../bench/slow.ts'

const bench = (...args: string[]) =>
  Bun.spawn([process.execPath, 'bench/main.ts', ...args], { stdout: 'pipe', stderr: 'pipe' })

test('the short benchmark loses no token, in no load, and writes its figures', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'bench-test-'))
  try {
    const path = join(folder, 'out.json')
    const loads = loadNames.filter(name => name !== 'memory')
    const run = bench('--short', '--loads', loads.join(','), '--json', path)
    const text = await new Response(run.stdout).text()
    expect(text).toContain('Every token arrived, in order and whole')
    expect(await run.exited).toBe(0)
    const { measurements, starts } = (await Bun.file(path).json()) as {
      measurements: { load: string; row: string; result: { right: number; wrong: number } }[]
      starts: unknown[]
    }
    expect(measurements.filter(({ result }) => result.wrong > 0 || result.right === 0)).toEqual([])
    expect(new Set(measurements.map(({ row }) => row))).toEqual(
      new Set([
        ...['direct', 'bare', 'proxy', 'proxy 401', 'proxy 429 requests', 'proxy 429 tokens'],
        ...['nothing', '32 MB past the proxy, each second', '32 MB body, each second'],
        ...['2,000 messages, each second', '10,000 messages (400), each second'],
        ...[
          '500 refusals a second, for want of tokens',
          'export of all rows, all the time',
          'history of the heaviest, each 20 ms',
          'retention of old rows',
        ],
        ...(canReadSlowly ? ['while they come', 'beside them', 'after they left'] : []),
      ]),
    )
    expect(starts).toHaveLength(1)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}, 60_000)

test('a wrong option is one sentence and exit code 2', async () => {
  const run = bench('--loads', 'everything')
  expect(await run.exited).toBe(2)
  expect(await new Response(run.stderr).text()).toContain('not "everything"')
})
