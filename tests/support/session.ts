/** One simulated Ollama and one proxy per test, closed behind it. */
import { afterEach } from 'bun:test'
import { type SimulatorOptions, startSimulator } from '../../src/simulator/simulator.ts'
import { type ProxyOptions, startProxy } from './proxy.ts'

const open: { close: () => Promise<unknown> }[] = []

afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
})

export const startSession = async ({
  simulator = {},
  ...options
}: ProxyOptions & { simulator?: SimulatorOptions } = {}) => {
  const ollama = await startSimulator({ models: ['m'], ...simulator })
  open.push({ close: () => ollama.close() })
  const proxy = await startProxy({ ollamaUrl: ollama.url, ...options })
  open.push({ close: () => proxy.stop() })
  return { ollama, proxy }
}

export const hello = [{ role: 'user' as const, content: 'Hello' }]

/** The rows of a user's history, newest first. */
export const historyOf = async (proxy: Awaited<ReturnType<typeof startProxy>>, key: string) => {
  const response = await proxy.call('/v1/usage/history', { key })
  return ((await response.json()) as { data: Record<string, unknown>[] }).data
}

/** Only these limits; all others are unlimited. */
export const limitsOf = (limits: Record<string, number>) => ({
  requests_per_minute: null,
  requests_per_day: null,
  tokens_per_minute: null,
  tokens_per_day: null,
  total_token_limit: null,
  ...limits,
})
