/** The papers are held to the program: settings, commands, endpoints, examples and links. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from 'bun:test'
import { existsSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import packageJson from '../package.json'
import { parseConfig, settingDefault, settingNames } from '../src/config.ts'
import { accountRoutes } from '../src/http/account.ts'
import { adminRoutes } from '../src/http/admin.ts'
import { publicRoutes } from '../src/http/public.ts'
import { startSimulator } from '../src/simulator/simulator.ts'
import { temporaryFolder } from './support/process.ts'
import { ADMIN_KEY, startProxy } from './support/proxy.ts'

// Python takes seconds to import a package on a slow machine.
setDefaultTimeout(30_000)

const root = resolve(import.meta.dir, '..')
const read = (path: string) => Bun.file(join(root, path)).text()
const readme = await read('README.md')

/** The fenced blocks of a page; `language` is '' where none is named. */
const blocksOf = (page: string) =>
  [...page.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(([, language = '', text = '']) => ({ language, text }))

const papers = ['*.md', 'docs/**/*.md']
  .flatMap(pattern => [...new Bun.Glob(pattern).scanSync({ cwd: root })])
  .sort()

describe('settings', () => {
  const names = [...settingNames].sort()
  const defaults = Object.fromEntries(names.map(name => [name, settingDefault(name)]))

  test("README's table has every setting once, with its default", () => {
    const rows = [...readme.matchAll(/^\| `([A-Z][A-Z_]+)` \| (?:`([^`]*)`|\(none\)) \|/gm)]
    expect(rows.map(([, name = '']) => name).sort()).toEqual(names)
    expect(Object.fromEntries(rows.map(([, name, value = '']) => [name, value]))).toEqual(defaults)
  })

  test('.env.example has every setting once with its default, and changes none as it stands', async () => {
    const lines = (await read('.env.example')).split('\n')
    const shown = lines.flatMap(line => [...line.matchAll(/^#([A-Z][A-Z_]+)=(.*)$/g)])
    expect(shown.map(([, name = '']) => name).sort()).toEqual(names)
    expect(Object.fromEntries(shown.map(([, name, value]) => [name, value]))).toEqual(defaults)
    expect(lines.filter(line => line !== '' && !line.startsWith('#'))).toEqual([
      'BUN_CONFIG_MAX_HTTP_REQUESTS=65535',
    ])
  })

  test('the defaults are what the program takes when nothing is set', () => {
    expect(parseConfig(defaults)).toEqual(parseConfig({}))
  })
})

describe('commands', () => {
  const scripts: Record<string, string> = packageJson.scripts

  for (const command of [
    'bun install && bun run dev',
    'npm install && npm run dev',
    'bun install && bun run test',
    'npm install && npm test',
  ]) {
    test(`"${command}" stands alone in a code block`, () => {
      expect(blocksOf(readme).filter(({ text }) => text === `${command}\n`)).toHaveLength(1)
    })
  }

  test('every script that a page names is in package.json', async () => {
    const named = new Set(['test'])
    for (const path of papers)
      for (const [, name = ''] of (await read(path)).matchAll(/\b(?:bun|npm) run ([a-z][\w:-]*)/g))
        named.add(name)
    expect([...named].filter(name => !(name in scripts))).toEqual([])
    expect([...named]).toContain('dev')
  })

  test('npm brings Bun', () => {
    expect(packageJson.devDependencies).toHaveProperty('bun')
  })
})

describe('endpoints', () => {
  const documented = [
    ...new Set([...readme.matchAll(/^\| `([A-Z]+ \/[^`?]*)/gm)].map(([, call = '']) => call)),
  ].sort()

  test('README has exactly those of the program', async () => {
    const none = {} as never
    const mounted = [
      ['', publicRoutes({ steady: () => 0 } as never).routes],
      ['/v1', accountRoutes({ client: () => undefined } as never).routes],
      ['/admin', adminRoutes({ config: none } as never).routes],
    ] as const
    const own = mounted.flatMap(([base, routes]) =>
      routes.filter(({ method }) => method !== 'ALL').map(({ method, path }) => `${method} ${base}${path}`),
    )
    const metered = [...(await read('src/app.ts')).matchAll(/app\.post\('([^']+)'/g)].map(
      ([, path]) => `POST ${path}`,
    )
    expect(metered).toHaveLength(4)
    const routes = [...new Set([...own, ...metered])].map(route => route.replace(/(?<=\w)\/$/, ''))
    // A parameter is one segment; one of `{.+}`, a model's name, is the rest of the path.
    const serves = (route: string, call: string) =>
      new RegExp(
        `^${route.replace(/:\w+(\{\.\+\})?/g, (_, rest) => (rest === undefined ? '[^/]+' : '.+'))}$`,
      ).test(call)
    expect(documented.filter(call => !routes.some(route => serves(route, call)))).toEqual([])
    expect(routes.filter(route => !documented.some(call => serves(route, call)))).toEqual([])
  })

  test('each of them answers as something that is there', async () => {
    const proxy = await startProxy()
    try {
      const key = await proxy.createUser('alice')
      for (const call of documented) {
        const [method = '', pattern = ''] = call.split(' ')
        const path = pattern.replace('{id}', 'nobody').replace(/\{\w+\}/g, 'key_999')
        const answer = await proxy.call(path, { method, key: path.startsWith('/admin') ? ADMIN_KEY : key })
        expect({ call, status: answer.status }).not.toEqual({ call, status: 405 })
        expect({ call, text: await answer.text() }).not.toEqual({
          call,
          text: expect.stringContaining('unknown_url'),
        })
      }
    } finally {
      await proxy.stop()
    }
  })
})

/** A machine with Bun alone lacks these; the examples are for people who have them. */
const hasCurl = Bun.which('curl') !== null && Bun.which('bash') !== null
const hasPython =
  Bun.which('python3') !== null &&
  Bun.spawnSync(['python3', '-c', 'import openai'], { stdout: 'ignore', stderr: 'ignore' }).success
if (!hasCurl) console.log("SKIPPED: README's examples need curl and bash, which are not here")
if (!hasPython) console.log("SKIPPED: README's Python example needs the package openai, which is not here")

describe.skipIf(!hasCurl)('examples', () => {
  /** One example: a comment with the status it promises, then one command. Blank lines part them. */
  const examples = blocksOf(readme)
    .filter(({ language }) => language === 'sh')
    .flatMap(({ text }) => text.split(/\n{2,}/))
    .filter(text => text.includes('curl '))

  const pixel =
    'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
  const place = temporaryFolder()
  let ollama: Awaited<ReturnType<typeof startSimulator>>
  let proxy: Awaited<ReturnType<typeof startProxy>>
  let key = ''

  beforeAll(async () => {
    ollama = await startSimulator({
      models: ['llama3.2', 'gemma3', { name: 'nomic-embed-text', behaviour: 'embedder' }],
    })
    proxy = await startProxy({ ollamaUrl: ollama.url })
    await mkdir(place.folder, { recursive: true })
    await writeFile(join(place.folder, 'photo.png'), Buffer.from(pixel, 'base64'))
  })
  afterAll(async () => {
    await proxy.stop()
    await ollama.close()
    place.remove()
  })

  const pointed = (text: string) =>
    text.replaceAll('http://localhost:8000', proxy.url).replaceAll('admin-secret-key', ADMIN_KEY)

  const run = async (command: string[], cwd = place.folder) => {
    const child = Bun.spawn(command, {
      cwd,
      env: { ...process.env, KEY: key },
      stdout: 'pipe',
      stderr: 'pipe',
    })
    const [output, errors, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ])
    return { output, errors, code }
  }

  /** The status goes to the standard error, so that the example's own output stays what a reader sees. */
  const reported = `curl() { command curl -sS -w '%{stderr}status %{http_code}' "$@"; }\n`

  test('every curl says the status it is answered with', () => {
    expect(examples.filter(text => !/^# [1-5]\d\d(: .+)?\n/.test(text))).toEqual([])
    expect(examples.length).toBeGreaterThan(40)
  })

  // In the order of the page: what one makes, a later one uses.
  for (const [index, example] of examples.entries()) {
    const [, status = '', command = ''] = /^# (\d+)[^\n]*\n(.*)$/s.exec(example) ?? []
    const name = command.replace(/\\\n\s*/g, '').replace(/-H "(Authorization|Content-Type)[^"]*" ?/g, '')
    test(`${index + 1}. ${name.trim()} → ${status}`, async () => {
      const { output, errors, code } = await run(['bash', '-c', reported + pointed(command)])
      expect({ code, errors, output }).toEqual({ code: 0, errors: `status ${status}`, output })
      key ||= /"api_key":"(sk-alice-\w+)"/.exec(output)?.[1] ?? ''
      expect(key).toStartWith('sk-alice-')
    })
    if (index + 1 !== examples.findIndex(text => text.includes('/v1/usage'))) continue

    // Here the reader has a key; the SDKs' examples follow.
    const codeOf = (language: string) =>
      blocksOf(readme).find(block => block.language === language)?.text ?? ''

    test('the JavaScript example prints an answer', async () => {
      const { output, errors, code } = await run([process.execPath, '-e', pointed(codeOf('js'))], root)
      expect({ code, errors, empty: output.trim() === '' }).toEqual({ code: 0, errors: '', empty: false })
    })

    test.skipIf(!hasPython)('the Python example prints an answer', async () => {
      const { output, errors, code } = await run(['python3', '-c', pointed(codeOf('python'))])
      expect({ code, errors }).toEqual({ code: 0, errors: '' })
      expect(output.trim()).toMatch(/ \d+$/)
    })
  }
})

describe('links', () => {
  /** A heading's anchor, as GitHub makes it. */
  const toAnchor = (heading: string) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-')
  const anchorsOf = (page: string) =>
    new Set([...page.matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) => toAnchor(heading)))

  test('the papers are there', () => {
    expect(papers).toEqual(
      expect.arrayContaining([
        'ARCHITECTURE.md',
        'CHANGELOG.md',
        'CONTRIBUTING.md',
        'README.md',
        'docs/running.md',
      ]),
    )
    expect(existsSync(join(root, 'LICENSE'))).toBe(true)
  })

  for (const path of papers) {
    test(`every relative link of ${path} leads somewhere`, async () => {
      const page = await read(path)
      const broken: string[] = []
      for (const [, target = ''] of page.matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(target)) continue
        const [file = '', anchor] = target.split('#')
        const to = file === '' ? path : join(dirname(path), file)
        if (!existsSync(join(root, to))) broken.push(target)
        else if (anchor !== undefined && !anchorsOf(await read(to)).has(anchor)) broken.push(target)
      }
      expect(broken).toEqual([])
    })
  }

  test('ARCHITECTURE.md stays one page', async () => {
    expect((await read('ARCHITECTURE.md')).split('\n').length).toBeLessThan(150)
  })

  test('every file that a page names in code is there', async () => {
    const missing: string[] = []
    for (const path of papers)
      for (const [, name = ''] of (await read(path)).matchAll(
        /`((?:src|tests|migrations|bench|torture)\/[\w./-]+)`/g,
      ))
        if (!existsSync(join(root, name))) missing.push(`${path}: ${name}`)
    expect(missing).toEqual([])
  })
})
