import { Database } from 'bun:sqlite'
import { afterEach, expect, test } from 'bun:test'
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { done, pause, say } from '../../src/simulator/script.ts'
import { startSimulator } from '../../src/simulator/simulator.ts'
import { launch, temporaryFolder } from '../support/process.ts'

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean()
})

const place = () => {
  const { folder, remove } = temporaryFolder()
  cleanups.push(remove)
  return join(folder, 'proxy.db')
}

const start = (settings: Record<string, string>) => {
  const proxy = launch(settings)
  cleanups.push(() => proxy.child.kill('SIGKILL'))
  return proxy
}

const admin = { authorization: 'Bearer test-admin-key', 'content-type': 'application/json' }
const createUser = async (url: string, userId: string) => {
  const answer = await fetch(`${url}/admin/users`, {
    method: 'POST',
    headers: admin,
    body: JSON.stringify({ user_id: userId }),
  })
  return ((await answer.json()) as { api_key: string }).api_key
}
const chat = (url: string, key: string, stream: boolean) =>
  fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'Hello' }], stream }),
  })

const startOllama = async () => {
  const ollama = await startSimulator({ models: ['m'] })
  cleanups.push(() => ollama.close())
  return ollama
}

/** One plain message on standard error, no stack, exit code 1, nothing listening. */
const expectRefusal = async (settings: Record<string, string>, ...words: string[]) => {
  const { code, output, errors } = await start(settings).ended()
  expect(code).toBe(1)
  for (const word of words) expect(errors).toContain(word)
  expect(errors).not.toMatch(/\n\s+at /)
  expect(output).not.toContain('Listening')
}

test('every wrong setting is named in one message, secrets masked, and nothing listens', async () => {
  await expectRefusal(
    {
      PORT: '99999',
      ADMIN_API_KEY: 'short',
      OLLAMA_BASE_URL: 'localhost:11434',
      LOG_LEVEL: 'loud',
      DATABASE_PATH: place(),
    },
    'PORT="99999"',
    'ADMIN_API_KEY=(5 characters, not shown)',
    'OLLAMA_BASE_URL="localhost:11434"',
    'LOG_LEVEL="loud"',
  )
})

test('a busy port is one sentence', async () => {
  const first = start({ DATABASE_PATH: place() })
  const { port } = new URL(await first.url())
  await expectRefusal({ DATABASE_PATH: place(), PORT: port }, `Port ${port} is in use already`)
})

test('a database of a newer release is one sentence, and stays as it is', async () => {
  const path = place()
  const first = start({ DATABASE_PATH: path })
  await first.url()
  first.child.kill('SIGTERM')
  await first.ended()
  const database = new Database(path)
  database.run("insert into __drizzle_migrations (hash, created_at) values ('newer', 9999999999999)")
  database.close()
  await expectRefusal({ DATABASE_PATH: path }, 'newer release')
})

test('a path that cannot hold a database is one sentence', async () => {
  const path = place()
  mkdirSync(path)
  await expectRefusal({ DATABASE_PATH: path }, 'DATABASE_PATH')
  const file = place()
  writeFileSync(file, 'not a database, but a text of some length that SQLite would refuse')
  await expectRefusal({ DATABASE_PATH: file }, 'DATABASE_PATH')
  const blocked = place()
  writeFileSync(blocked, '')
  chmodSync(blocked, 0o600)
  await expectRefusal({ DATABASE_PATH: join(blocked, 'proxy.db') }, 'DATABASE_PATH')
})

test('a second process on the same database is refused, and may start when the first was killed', async () => {
  const path = place()
  const first = start({ DATABASE_PATH: path })
  await first.url()
  await expectRefusal({ DATABASE_PATH: path }, 'another running proxy')
  first.child.kill('SIGKILL')
  await first.ended()
  const second = start({ DATABASE_PATH: path })
  expect(await second.url()).toStartWith('http://127.0.0.1:')
})

test('the banner names the URL, the database, what is amiss with Ollama, and a command to paste', async () => {
  const path = place()
  const proxy = start({ DATABASE_PATH: path })
  await proxy.says(/Make a user and its key:\n\s+curl .*\n/)
  await proxy.says(/was not found at http:\/\/127\.0\.0\.1:9/)
  await proxy.says(/BUN_CONFIG_MAX_HTTP_REQUESTS is not set/)
  await proxy.says(new RegExp(path))
})

test('the banner names Ollama’s version and models', async () => {
  const ollama = await startOllama()
  const proxy = start({
    DATABASE_PATH: place(),
    OLLAMA_BASE_URL: ollama.url,
    BUN_CONFIG_MAX_HTTP_REQUESTS: '65535',
  })
  await proxy.says(/Ollama +\S+ at http.*: m/)
})

test('headers of 100 KB are an error in our shape', async () => {
  const proxy = start({ DATABASE_PATH: place() })
  const answer = await fetch(`${await proxy.url()}/v1/models`, {
    headers: { 'x-large': 'x'.repeat(100 * 1024) },
  })
  expect(answer.status).toBe(431)
  expect(await answer.json()).toMatchObject({ error: { code: 'request_too_large', param: null } })
})

test('SIGTERM lets a running stream finish, refuses new requests, closes the row and exits 0', async () => {
  const ollama = await startOllama()
  const path = place()
  const proxy = start({ DATABASE_PATH: path, OLLAMA_BASE_URL: ollama.url })
  const url = await proxy.url()
  const key = await createUser(url, 'alice')
  ollama.next(say('Hel'), pause(), say('lo'), done({ prompt: 3, completion: 3 }))
  const answer = await chat(url, key, true)
  proxy.child.kill('SIGTERM')
  await proxy.says(/stopping/)
  const refused = await chat(url, key, false).then(
    response => response.status,
    () => 'refused',
  )
  expect([503, 'refused']).toContain(refused)
  ollama.resume()
  expect(await answer.text()).toEndWith('data: [DONE]\n\n')
  expect((await proxy.ended()).code).toBe(0)
  const database = new Database(path)
  expect(database.query('select outcome, prompt_tokens, completion_tokens from usage').all()).toEqual([
    { outcome: 0, prompt_tokens: 3, completion_tokens: 3 },
  ])
  expect(database.query('select * from open_requests').all()).toEqual([])
  database.close()
})

test('past the deadline a stream ends with an error chunk and its row is closed', async () => {
  const ollama = await startOllama()
  const proxy = start({ DATABASE_PATH: place(), OLLAMA_BASE_URL: ollama.url, SHUTDOWN_TIMEOUT_S: '0' })
  const url = await proxy.url()
  const key = await createUser(url, 'alice')
  ollama.next(say('Hel'), pause(), done())
  const answer = await chat(url, key, true)
  proxy.child.kill('SIGTERM')
  expect(await answer.text().catch(String)).toContain('"code":"shutting_down"')
  expect((await proxy.ended()).code).toBe(0)
})

test('a second signal ends at once', async () => {
  const ollama = await startOllama()
  const proxy = start({ DATABASE_PATH: place(), OLLAMA_BASE_URL: ollama.url })
  const url = await proxy.url()
  const key = await createUser(url, 'alice')
  ollama.next(say('Hel'), pause(), done())
  const answer = await chat(url, key, true)
  proxy.child.kill('SIGINT')
  await proxy.says(/stopping/)
  proxy.child.kill('SIGINT')
  expect((await proxy.ended()).code).toBe(1)
  await answer.text().catch(() => undefined)
})

test('a request cut off by kill -9 is recovered at the next start, and its user is still limited by it', async () => {
  const ollama = await startOllama()
  const settings = { DATABASE_PATH: place(), OLLAMA_BASE_URL: ollama.url, DEFAULT_REQUESTS_PER_MINUTE: '1' }
  const first = start(settings)
  const url = await first.url()
  const key = await createUser(url, 'alice')
  ollama.next(say('Hel'), pause(), done())
  const answer = await chat(url, key, true)
  first.child.kill('SIGKILL')
  await answer.text().catch(() => undefined)
  await first.ended()
  const second = start(settings)
  const again = await second.url()
  await second.says(/Recovered 1 request/)
  expect((await chat(again, key, false)).status).toBe(429)
  const history = await fetch(`${again}/v1/usage/history`, { headers: { authorization: `Bearer ${key}` } })
  expect(((await history.json()) as { data: unknown[] }).data).toMatchObject([
    { outcome: 'recovered', basis: 'recovered' },
  ])
})

test('the demo runs without an Ollama: an answer, a tripped limit, the bill', async () => {
  const demo = launch({ HOST: '127.0.0.1', CURRENCY: 'EUR' }, 'src/demo.ts')
  cleanups.push(() => demo.child.kill('SIGKILL'))
  await demo.says(/SIMULATED/)
  await demo.says(/request 4: 429 Limit of 3 requests per minute reached/)
  await demo.says(/\d+ requests, \d+ prompt \+ \d+ completion = \d+ tokens, [\d.e-]+ EUR/)
  const [, port] = await demo.says(/curl http:\/\/localhost:(\d+)\/v1\/chat/)
  expect((await fetch(`http://127.0.0.1:${port}/health`)).status).toBe(200)
  demo.child.kill('SIGINT')
  expect((await demo.ended()).code).toBe(0)
})
