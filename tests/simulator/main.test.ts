import { afterEach, expect, test } from 'bun:test'
import { join } from 'node:path'

const main = join(import.meta.dir, '../../src/simulator/main.ts')
const spawn = (...args: string[]) =>
  Bun.spawn([process.execPath, main, ...args], { stdout: 'pipe', stderr: 'pipe' })

let running: ReturnType<typeof spawn> | undefined
afterEach(async () => {
  running?.kill('SIGKILL')
  await running?.exited
  running = undefined
})

test('as a process it prints its address, answers, and stops on SIGTERM', async () => {
  running = spawn('--port', '0', '--models', 'demo,llama3.2')
  const { value } = await running.stdout.getReader().read()
  const printed = new TextDecoder().decode(value)
  expect(printed).toMatch(/^Simulated Ollama at http:\/\/127\.0\.0\.1:\d+\n$/)
  const url = printed.trim().split(' ').at(-1) ?? ''
  const tags = await fetch(`${url}/api/tags`)
  expect(await tags.text()).toContain('"llama3.2:latest"')
  running.kill('SIGTERM')
  expect(await running.exited).toBe(0)
})

test('nonsense on the command line is one sentence', async () => {
  running = spawn('--port', 'many')
  expect(await new Response(running.stderr).text()).toBe('--port must be a number, not "many"\n')
  expect(await running.exited).toBe(2)
})
