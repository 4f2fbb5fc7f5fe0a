import { expect, test } from 'bun:test'
import { join } from 'node:path'
import { parseConfig, settingDefault } from '../../src/config.ts'
import { openDatabase } from '../../src/runtime/database.ts'
import { done, say } from '../../src/simulator/script.ts'
import { temporaryFolder } from '../support/process.ts'
import { START_MS } from '../support/proxy.ts'
import { hello, historyOf, startSession } from '../support/session.ts'

const DAY_MS = 86_400_000

test('each DEFAULT_ setting is the limit of a new user that names none, and `unlimited` is null', async () => {
  const { proxy } = await startSession({
    settings: {
      DEFAULT_REQUESTS_PER_MINUTE: '11',
      DEFAULT_REQUESTS_PER_DAY: '12',
      DEFAULT_TOKENS_PER_MINUTE: '13',
      DEFAULT_TOKENS_PER_DAY: 'unlimited',
      DEFAULT_TOTAL_TOKEN_LIMIT: '15',
    },
  })
  const { body } = await proxy.admin('/admin/users', { json: { user_id: 'alice' } })
  expect(body).toMatchObject({
    limits: {
      requests_per_minute: 11,
      requests_per_day: 12,
      tokens_per_minute: 13,
      tokens_per_day: null,
      total_token_limit: 15,
    },
  })
})

test('rows past USAGE_RETENTION_DAYS leave the history of a running server, and no total changes', async () => {
  const { ollama, proxy } = await startSession({ settings: { USAGE_RETENTION_DAYS: '2' } })
  const key = await proxy.createUser('alice')
  const ask = async (prompt: number) => {
    ollama.next(say('ok'), done({ prompt, completion: 2 }))
    const answer = await proxy.call('/v1/chat/completions', { key, json: { model: 'm', messages: hello } })
    expect(answer.status).toBe(200)
  }
  const total = async () =>
    ((await (await proxy.call('/v1/usage', { key })).json()) as { total_tokens: number }).total_tokens
  await ask(5)
  proxy.pass(DAY_MS)
  await ask(7)
  expect(await historyOf(proxy, key)).toHaveLength(2)
  expect(await total()).toBe(16)
  proxy.pass(1.5 * DAY_MS)
  expect((await historyOf(proxy, key)).map(row => row['prompt_tokens'])).toEqual([7])
  expect(await total()).toBe(16)
})

test('SQLITE_SYNCHRONOUS chooses between surviving a kill and surviving a loss of power', () => {
  const { folder, remove } = temporaryFolder()
  for (const [word, level] of [
    [settingDefault('SQLITE_SYNCHRONOUS'), 1],
    ['full', 2],
  ] as const) {
    const { sqliteSynchronous } = parseConfig({ SQLITE_SYNCHRONOUS: word })
    const path = join(folder, `${word}.db`)
    const database = openDatabase({ path, synchronous: sqliteSynchronous, nowMs: START_MS })
    expect(database.sqlite.query('pragma synchronous').get()).toEqual({ synchronous: level })
    database.close()
  }
  remove()
})
