/**
 * `bun run demo`: the same program, with no Ollama and no model on the machine. A simulated Ollama, clearly labelled,
 * takes its place; a user is made, an answer streamed, a limit tripped, the bill printed. Stays up until Ctrl-C.
 */
import { version } from '../package.json'
import { ConfigError, parseConfig } from './config.ts'
import { createLog } from './runtime/log.ts'
import { randomText } from './runtime/secrets.ts'
import { startServer } from './runtime/server.ts'
import { StartError } from './runtime/start-error.ts'
import { startSimulator } from './simulator/simulator.ts'

const MS_PER_TOKEN = 25
const say = (line = '') => console.log(line)

const readJson = async (answer: Response) => (await answer.json()) as Record<string, unknown>

const run = async () => {
  const simulator = await startSimulator({ msPerToken: MS_PER_TOKEN })
  const adminKey = `demo-${randomText(24)}`
  const config = parseConfig({
    LOG_LEVEL: 'warn',
    ...process.env,
    OLLAMA_BASE_URL: simulator.url,
    DATABASE_PATH: ':memory:',
    ADMIN_API_KEY: adminKey,
  })
  const server = await startServer(config, { version, log: createLog(config) })
  const local = `http://localhost:${server.port}`
  const post = (path: string, key: string, body: unknown) =>
    fetch(local + path, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })

  say(
    `ai-usage-proxy ${version}: a demo with a SIMULATED Ollama. No model runs here; the answers are canned.`,
  )
  say(`Listening on ${local}; everything is kept in memory and gone at the end.`)
  say()

  say('1. The admin sets a price for the model and makes a user with a limit of 3 requests a minute.')
  await post('/admin/pricing', adminKey, {
    model: 'demo',
    input_cost_per_million: 0.5,
    output_cost_per_million: 1.5,
  })
  const made = await readJson(
    await post('/admin/users', adminKey, { user_id: 'alice', limits: { requests_per_minute: 3 } }),
  )
  const key = String(made['api_key'])
  say(`   alice's key, shown once: ${key}`)
  say()

  say('2. alice streams an answer, as any OpenAI client would:')
  const question = { model: 'demo', messages: [{ role: 'user', content: 'What does this proxy do?' }] }
  const stream = await post('/v1/chat/completions', key, { ...question, stream: true })
  process.stdout.write('   ')
  const events = (stream.body as ReadableStream<Uint8Array<ArrayBuffer>>).pipeThrough(new TextDecoderStream())
  let pending = ''
  for await (const part of events) {
    const lines = (pending + part).split('\n')
    pending = lines.pop() ?? ''
    for (const line of lines) {
      if (!line.startsWith('data: {')) continue
      const chunk = JSON.parse(line.slice('data: '.length)) as { choices: { delta: { content?: string } }[] }
      process.stdout.write(chunk.choices[0]?.delta.content?.replaceAll('\n', '\n   ') ?? '')
    }
  }
  say()
  say()

  say('3. She asks on, and trips her limit:')
  for (let request = 2; request <= 4; request++) {
    const answer = await post('/v1/chat/completions', key, { ...question, max_tokens: 8 })
    const body = await readJson(answer)
    const error = body['error'] as { message: string } | undefined
    say(`   request ${request}: ${answer.status}${error === undefined ? '' : ` ${error.message}`}`)
  }
  say()

  say('4. The bill, to the token:')
  const usage = await readJson(
    await fetch(`${local}/v1/usage`, { headers: { authorization: `Bearer ${key}` } }),
  )
  say(
    `   ${usage['request_count']} requests, ${usage['prompt_tokens']} prompt + ${usage['completion_tokens']} completion = ${usage['total_tokens']} tokens, ${usage['total_cost']} ${config.currency}`,
  )
  say()

  say('It stays up until Ctrl-C. Try it yourself:')
  say(
    `   curl ${local}/v1/chat/completions -H "Authorization: Bearer ${key}" -H "Content-Type: application/json" -d '{"model":"demo","messages":[{"role":"user","content":"Hello"}]}'`,
  )
  say(`   curl ${local}/v1/usage/history -H "Authorization: Bearer ${key}"`)
  say(`   curl ${local}/admin/users -H "Authorization: Bearer ${adminKey}"`)

  const stop = async () => {
    await server.stop(0)
    await simulator.close()
    process.exit(0)
  }
  process.on('SIGINT', stop)
  process.on('SIGTERM', stop)
}

await run().catch(error => {
  console.error(error instanceof ConfigError || error instanceof StartError ? error.message : error)
  process.exit(1)
})
