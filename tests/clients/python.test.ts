/**
 * openai for Python, where Python and the package are at hand. `OPENAI_PYTHON_TEST=1` makes a virtual environment in a
 * temporary folder and installs the package there first.
 */
import { expect, test } from 'bun:test'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { done, garbage, reset, say, stall, think, toolCall } from '../../src/simulator/script.ts'
import { historyOf, startSession } from '../support/session.ts'

const program = fileURLToPath(new URL('python/openai_client.py', import.meta.url))
const wanted = process.env['OPENAI_PYTHON_TEST'] === '1'

const works = (python: string) => {
  try {
    return Bun.spawnSync([python, '-c', 'import openai, pydantic'], { stdout: 'ignore', stderr: 'ignore' })
      .success
  } catch {
    return false
  }
}

const install = (): { python: string; remove: () => void } => {
  const folder = mkdtempSync(join(tmpdir(), 'openai-python-'))
  const python = join(folder, 'bin', 'python')
  for (const command of [
    ['python3', '-m', 'venv', folder],
    [python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', 'openai==3.51.0'],
  ]) {
    const { success, stderr } = Bun.spawnSync(command)
    if (!success) throw new Error(`${command.join(' ')}: ${stderr}`)
  }
  return { python, remove: () => rmSync(folder, { recursive: true, force: true }) }
}

const atHand = works('python3')
const runs = atHand || wanted
if (!runs)
  console.log(
    'SKIPPED: openai for Python is not installed here; OPENAI_PYTHON_TEST=1 installs it for this test',
  )

test.skipIf(!runs)(
  'openai for Python: chat, streams, parse, tools, async, embeddings and errors',
  async () => {
    const { python, remove } = atHand ? { python: 'python3', remove: () => undefined } : install()
    try {
      const { ollama, proxy } = await startSession({
        simulator: { models: ['greeter', 'hf.co/org/name:Q4', { name: 'embedder', behaviour: 'embedder' }] },
      })
      const key = await proxy.createUser('alice')
      ollama.forModel('greeter', say('Hello'), say(' there'), done({ prompt: 7, completion: 3 }))
      ollama.forModel(
        'caller',
        say('I look.'),
        toolCall({ name: 'weather', arguments: { city: 'Bern' }, id: 'call_1' }),
        toolCall({ name: 'weather', arguments: { city: 'Rom' }, id: 'call_2', index: 1 }),
        done(),
      )
      ollama.forModel('poet', say('a\u2028b'), say('\u2029c\u0085d\0e\r\nf🦙'), done())
      ollama.catalogue.add({ name: 'thinker', behaviour: 'thinker' })
      ollama.forModel('planner', say('{"name":"Fair",'), say('"people":["Ann"]}'), done())
      ollama.forModel('dying', say('one'), garbage())
      ollama.forModel('broken', reset())
      ollama.forModel('silent', stall())
      ollama.forModel('thinker', think('Let me'), think(' see.'), say('42'), done())
      const child = Bun.spawn([python, program], {
        env: {
          PATH: process.env['PATH'] ?? '',
          OPENAI_BASE_URL: `${proxy.url}/v1`,
          OPENAI_API_KEY: key,
          NO_PROXY: '*',
        },
        stdout: 'pipe',
        stderr: 'pipe',
      })
      const report = await new Response(child.stderr).text()
      if ((await child.exited) !== 0) throw new Error(report)
      console.log(
        `openai for Python: ${report
          .trim()
          .split('\n')
          .slice(-3)
          .filter(line => line !== '')
          .join(', ')}`,
      )
      await proxy.settled()
      expect((await historyOf(proxy, key)).length).toBeGreaterThan(10)
    } finally {
      remove()
    }
  },
  { timeout: 180_000 },
)
