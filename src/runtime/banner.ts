/** What a person sees after the start: where it listens, what it found, and a command to paste. */
import type { RunningServer } from './server.ts'

const MODELS_SHOWN = 6
/** Below this many, a 257th stream would wait in silence for another to end (bun-facts §3). */
const FETCHES_ENOUGH = 1024

const ollamaLine = async ({ ollama }: RunningServer, url: string): Promise<string> => {
  const version = await ollama.version()
  if (version === undefined) {
    return `Ollama    was not found at ${url}. Start it with "ollama serve", or set OLLAMA_BASE_URL; requests work as soon as it answers.`
  }
  const models = await ollama.models().catch(() => [])
  if (models.length === 0)
    return `Ollama    ${version} at ${url}, without a model yet: "ollama pull llama3.2" gets one.`
  const names = models.slice(0, MODELS_SHOWN).map(model => model.name)
  const more = models.length > MODELS_SHOWN ? ` and ${models.length - MODELS_SHOWN} more` : ''
  return `Ollama    ${version} at ${url}: ${names.join(', ')}${more}`
}

export const greet = async (facts: {
  server: RunningServer
  version: string
  ollamaUrl: string
  adminKeyIsDefault: boolean
  upstreamFetches: string | undefined
}): Promise<void> => {
  const { server, version, adminKeyIsDefault } = facts
  const local = `http://localhost:${server.port}`
  const key = adminKeyIsDefault ? 'admin-secret-key' : '$ADMIN_API_KEY'
  const lines = [
    `ai-usage-proxy ${version}`,
    `Listening ${server.url}   (OpenAI base URL: ${local}/v1)`,
    `Database  ${server.databasePath}`,
    await ollamaLine(server, facts.ollamaUrl),
  ]
  if (server.recovered > 0)
    lines.push(
      `Recovered ${server.recovered} requests that the last stop had cut off; they are in the ledger.`,
    )
  if (adminKeyIsDefault)
    lines.push(
      'Admin     the default key works from this machine only; for other machines or a container set ADMIN_API_KEY.',
    )
  if (!(Number(facts.upstreamFetches) >= FETCHES_ENOUGH)) {
    lines.push(
      'Warning   BUN_CONFIG_MAX_HTTP_REQUESTS is not set, so only 256 requests run at once: start with "bun run start", or set it to 65535 in the environment.',
    )
  }
  lines.push(
    '',
    'Make a user and its key:',
    `  curl ${local}/admin/users -H "Authorization: Bearer ${key}" -H "Content-Type: application/json" -d '{"user_id":"alice"}'`,
    '',
  )
  console.log(lines.join('\n'))
}
