import { describe, expect, test } from 'bun:test'
import { batch, closing, idAt, newKey, openMemory, T0, unlimited } from './support.ts'

const limits = { ...unlimited, requestsPerMinute: 60, totalTokens: 0 }

describe('users', () => {
  test('are made with their key and limits, and found by either', async () => {
    const { store } = openMemory()
    const made = await store.createUser(
      'alice',
      limits,
      newKey('h1', { name: 'laptop', models: ['llama3'] }),
      T0,
    )
    expect(made?.key).toEqual({
      id: 1,
      prefix: 'sk-h1-…',
      name: 'laptop',
      createdAt: T0,
      expiresAt: null,
      lastUsedAt: null,
      models: ['llama3'],
    })
    expect(await store.findPrincipal('h1')).toEqual({
      userId: 'alice',
      userNumber: 1,
      keyId: 1,
      limits,
      models: ['llama3'],
      expiresAt: null,
    })
    expect(await store.findPrincipal('h2')).toBeUndefined()
    expect(await store.findUser('alice')).toEqual({
      userId: 'alice',
      userNumber: 1,
      createdAt: T0,
      keys: 1,
      limits,
    })
    expect(await store.findUser('Alice')).toBeUndefined()
  })

  test('a taken id makes nothing, not even half of it', async () => {
    const { store, sqlite } = openMemory()
    await store.createUser('alice', limits, newKey('h1'), T0)
    expect(await store.createUser('alice', unlimited, newKey('h2'), T0)).toBeUndefined()
    expect(
      sqlite.query('select (select count(*) from api_keys), (select count(*) from user_numbers)').values(),
    ).toEqual([[1, 1]])
    // A key that exists already rolls the user back.
    await expect(store.createUser('bob', unlimited, newKey('h1'), T0)).rejects.toThrow()
    expect(await store.findUser('bob')).toBeUndefined()
  })

  test('are listed newest first, in pages, by a prefix taken literally', async () => {
    const { store } = openMemory()
    for (const id of ['a_1', 'ab1', 'a_2', 'b', 'A_3']) await store.createUser(id, limits, newKey(id), T0)
    const ids = async (page: Parameters<typeof store.listUsers>[0]) =>
      (await store.listUsers(page)).map(user => user.userId)
    expect(await ids({ limit: 2 })).toEqual(['A_3', 'b'])
    expect(await ids({ limit: 2, after: 'b' })).toEqual(['a_2', 'ab1'])
    expect(await ids({ limit: 9, prefix: 'a_' })).toEqual(['a_2', 'a_1'])
    expect(await ids({ limit: 9, prefix: 'a_', after: 'a_2' })).toEqual(['a_1'])
    expect(await ids({ limit: 9, prefix: '%' })).toEqual([])
  })

  test('deleted and made again start from zero, while the money stays', async () => {
    const { store, sqlite, commit } = openMemory()
    const first = await store.createUser('alice', limits, newKey('h1', { name: "alice's phone" }), T0)
    const number = first?.userNumber ?? 0
    commit(
      batch({ close: [closing({ id: idAt(T0), userNumber: number, modelId: await store.modelId('m') })] }),
    )
    expect(await store.settledTotal(number)).toBe(15)
    expect(await store.deleteUser('alice', T0 + 1)).toBe(number)
    expect(await store.deleteUser('alice', T0 + 1)).toBeUndefined()
    expect(await store.findPrincipal('h1')).toBeUndefined()
    expect(sqlite.query('select * from rate_limits').values()).toEqual([])
    const again = await store.createUser('alice', limits, newKey('h2'), T0 + 2)
    expect(again?.userNumber).toBeGreaterThan(number)
    expect(await store.settledTotal(again?.userNumber ?? 0)).toBe(0)
    expect(await store.settledTotal(number)).toBe(15)
    // Nothing that is left of the deleted user names it.
    const left = sqlite.query('select prefix, name, hash from api_keys where user_number = ?').values(number)
    expect(left).toEqual([['', null, null]])
  })

  test('numbers are not reused when the last user goes', async () => {
    const { store } = openMemory()
    await store.createUser('alice', limits, newKey('h1'), T0)
    await store.createUser('bob', limits, newKey('h2'), T0)
    expect(await store.deleteAllUsers(T0)).toEqual([1, 2])
    expect(await store.deleteAllUsers(T0)).toEqual([])
    expect((await store.createUser('alice', limits, newKey('h3'), T0))?.userNumber).toBe(3)
  })

  test('previews of a user go with it, however many', async () => {
    const { store, sqlite } = openMemory()
    await store.createUser('alice', limits, newKey('h1'), T0)
    sqlite.run(
      `insert into prompt_previews with recursive n(i) as (select 1 union all select i + 1 from n where i < 2500)
       select i, 1 + i % 5 / 4, 'text' from n`,
    )
    await store.erasePreviews(1)
    await store.deleteUser('alice', T0)
    const left = () => sqlite.query('select user_number, count(*) from prompt_previews group by 1').values()
    // A living user keeps its own.
    expect(left()).toEqual([
      [1, 2000],
      [2, 500],
    ])
    await store.erasePreviews(1)
    expect(left()).toEqual([[2, 500]])
  })
})

describe('keys', () => {
  test('are listed newest first, changed, and revoked for good', async () => {
    const { store } = openMemory()
    await store.createUser('alice', limits, newKey('h1'), T0)
    await store.createUser('bob', limits, newKey('h2'), T0)
    const second = await store.createKey(1, newKey('h3', { expiresAt: T0 + 5 }), T0)
    expect((await store.listKeys(1, { limit: 9 })).map(key => key.id)).toEqual([3, 1])
    expect((await store.listKeys(1, { limit: 9, after: 3 })).map(key => key.id)).toEqual([1])
    expect(await store.updateKey(1, second.id, { name: 'ci', models: ['m'] })).toEqual({
      ...second,
      name: 'ci',
      models: ['m'],
    })
    expect(await store.updateKey(1, second.id, { models: null, expiresAt: null })).toEqual({
      ...second,
      name: 'ci',
      expiresAt: null,
    })
    expect((await store.updateKey(1, second.id, {}))?.name).toBe('ci')
    expect(await store.updateKey(2, second.id, { name: 'stolen' })).toBeUndefined()
    expect(await store.revokeKey(2, second.id, T0)).toBe(false)
    expect(await store.revokeKey(1, second.id, T0)).toBe(true)
    expect(await store.revokeKey(1, second.id, T0)).toBe(false)
    expect(await store.findPrincipal('h3')).toBeUndefined()
    expect(await store.updateKey(1, second.id, { name: 'late' })).toBeUndefined()
    expect((await store.findUser('alice'))?.keys).toBe(1)
  })
})

describe('limits', () => {
  test('change one by one: absent stays, null is unlimited, 0 is nothing', async () => {
    const { store } = openMemory()
    await store.createUser('alice', limits, newKey('h1'), T0)
    expect(await store.updateLimits('alice', { requestsPerMinute: null, tokensPerDay: 0 })).toEqual({
      ...unlimited,
      tokensPerDay: 0,
      totalTokens: 0,
    })
    expect(await store.updateLimits('alice', { totalTokens: 7 })).toMatchObject({
      totalTokens: 7,
      tokensPerDay: 0,
    })
    expect(await store.updateLimits('alice', {})).toMatchObject({ totalTokens: 7 })
    expect(await store.updateLimits('nobody', { totalTokens: 7 })).toBeUndefined()
  })
})

describe('prices', () => {
  test('replace each other, and every change stays in the history', async () => {
    const { store } = openMemory()
    const price = { inputPrice: 1, outputPrice: 2 }
    await store.putPrice('m', price, 'admin', T0)
    expect(await store.putPrice('m', { inputPrice: 3, outputPrice: 4 }, 'admin', T0 + 1)).toEqual({
      model: 'm',
      inputPrice: 3,
      outputPrice: 4,
      createdAt: T0,
      updatedAt: T0 + 1,
    })
    await store.putPrice('a', price, 'admin', T0 + 2)
    expect((await store.listPrices()).map(({ model }) => model)).toEqual(['a', 'm'])
    expect(await store.deletePrice('m', 'admin', T0 + 3)).toBe(true)
    expect(await store.deletePrice('m', 'admin', T0 + 4)).toBe(false)
    expect(await store.findPrice('m')).toBeUndefined()
    expect((await store.priceHistory('m')).map(change => [change.inputPrice, change.changedAt])).toEqual([
      [null, T0 + 3],
      [3, T0 + 1],
      [1, T0],
    ])
    expect(await store.priceHistory()).toHaveLength(4)
  })
})

describe('models', () => {
  test('a name has one id, also when asked for at once', async () => {
    const { store } = openMemory()
    const ids = await Promise.all(['m', 'n', 'm', '__proto__', 'm'].map(name => store.modelId(name)))
    expect(new Set([ids[0], ids[2], ids[4]]).size).toBe(1)
    expect(new Set(ids).size).toBe(3)
  })
})

describe('the probe', () => {
  test('writes nothing, and throws when the database is gone', async () => {
    const { store, sqlite, close } = openMemory()
    await store.probe()
    expect(sqlite.query('select count(*) from user_numbers').values()).toEqual([[0]])
    close()
    await expect(store.probe()).rejects.toThrow()
  })
})
