/**
 * The benchmark: a simulated Ollama, a bare pass-through and the proxy, each a process of its own; alternating rounds;
 * every token of every answer checked. A lost or wrong one makes the run fail.
 *
 * `bun run bench [--short] [--rounds 3] [--loads plain64,stream64,…] [--json out.json]
 *  [--target name=http://host:port/v1/chat/completions] [--key sk-…] [--requests 100000] [--rows 0] [--profile folder]`
 *
 * `--target` adds a running server whose upstream is `--upstream-port`'s simulated Ollama; `--requests` is for `memory`,
 * `--rows` for `start`; `--profile` leaves a CPU profile of the proxy in a folder.
 */
import { cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import type { LoadOrder, LoadResult } from './load.ts'
import { type LoadName, loadNames, ordersOf, type Shape, shapes } from './loads.ts'
import { type MemoryResult, measureMemory, measureStarts, type StartResult } from './once.ts'
import { type Measurement, median, printLoad, sections, summarize, toTable } from './report.ts'
import {
  canPin,
  outputOf,
  type Server,
  serverAt,
  startBare,
  startProxyWithUsers,
  startSimulator,
} from './servers.ts'

const fail = (sentence: string): never => {
  console.error(sentence)
  process.exit(2)
}

const readOptions = () => {
  const { values } = parseArgs({
    options: {
      short: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      loads: { type: 'string', default: loadNames.join(',') },
      target: { type: 'string', multiple: true, default: [] },
      key: { type: 'string' },
      'upstream-port': { type: 'string', default: '0' },
      json: { type: 'string' },
      requests: { type: 'string' },
      rows: { type: 'string', default: '0' },
      profile: { type: 'string' },
    },
  })
  const whole = (text: string, name: string, least: number) => {
    const value = Number(text)
    return Number.isInteger(value) && value >= least
      ? value
      : fail(`--${name} must be a whole number from ${least}.`)
  }
  const isLoad = (text: string): text is LoadName => loadNames.some(name => name === text)
  const loads = values.loads.split(',').map(name => {
    if (isLoad(name)) return name
    return fail(`--loads knows ${loadNames.join(', ')}, not "${name}".`)
  })
  const targets = values.target.map(text => {
    const [, name, address] = /^([\w.-]+)=(http:\/\/.+)$/.exec(text) ?? []
    if (name === undefined || address === undefined)
      return fail('--target must be like name=http://host:port/path.')
    return serverAt(name, address, values.key)
  })
  const { short } = values
  return {
    short,
    loads,
    targets,
    rounds: whole(values.rounds ?? (short ? '1' : '3'), 'rounds', 1),
    upstreamPort: whole(values['upstream-port'], 'upstream-port', 0),
    requests: whole(values.requests ?? (short ? '2000' : '100000'), 'requests', 10),
    rows: whole(values.rows, 'rows', 0),
    json: values.json,
    profile: values.profile,
  }
}

const options = readOptions()
const began = performance.now()
const say = (text: string) => console.log(text)

/** One load of one server by a load generator of its own process. */
const measure = async (
  server: Server,
  shape: Shape & { key?: string },
  upstreamPid: number | undefined,
): Promise<LoadResult> => {
  const { host, port, path, dialect, pid } = server
  const key = shape.key ?? server.key
  const order: LoadOrder = {
    status: 200,
    ...shape,
    host,
    port,
    path,
    dialect,
    key,
    serverPid: pid,
    upstreamPid,
  }
  return JSON.parse(await outputOf(['bench/load.ts', JSON.stringify(order)])) as LoadResult
}

const machine = {
  cpu: cpus()[0]?.model ?? 'unknown',
  cores: cpus().length,
  memoryGb: Math.round(totalmem() / 2 ** 30),
  system: `${process.platform} ${process.arch}`,
  bun: Bun.version,
  pinned: canPin,
}

const measurements: Measurement[] = []
let wrong = 0

const note = (load: LoadName, row: string, round: number, result: LoadResult) => {
  measurements.push({ load, row, round, result })
  if (result.wrong === 0) return
  wrong += result.wrong
  say(`WRONG: ${load}, ${row}, round ${round}: ${result.wrong} answers\n  ${result.faults.join('\n  ')}`)
}

const simulator = await startSimulator(options.upstreamPort)
const upstream = simulator.url
const upstreamOf = (server: Server) => (server === simulator ? undefined : simulator.pid)
const start = {
  bare: () => startBare(upstream),
  proxy: () => startProxyWithUsers({ upstream, profileFolder: options.profile }),
}

const rated = options.loads.filter(load => load !== 'memory' && load !== 'start')
const speed = rated.filter(load => load !== 'open5000')

/** Until the compiler has done its work: what a server costs in its first seconds is not what it costs in a day. */
const warm = async (server: Server, requests: number) => {
  const plain = { ...shapes.plain64(options.short), warmUp: 0, requests: options.short ? 100 : requests }
  const streams = {
    ...shapes.stream64(options.short),
    warmUp: 0,
    requests: options.short ? 50 : requests / 10,
  }
  for (const shape of [plain, streams]) {
    const { wrong: failed, faults } = await measure(server, shape, undefined)
    if (failed > 0) fail(`${server.name} does not answer rightly: ${faults.join('; ')}`)
  }
}

const runRound = async (load: LoadName, servers: readonly Server[], round: number) => {
  for (const server of servers) {
    for (const { row, order } of ordersOf(load, server, options.short)) {
      note(load, row, round, await measure(server, order, upstreamOf(server)))
    }
  }
}

say(
  `${machine.cores} × ${machine.cpu}, ${machine.memoryGb} GB, ${machine.system}, Bun ${machine.bun}. ${
    canPin
      ? 'Servers are pinned to core 1, the load generator and the simulated Ollama to core 0.'
      : 'Processes are NOT pinned to cores (no taskset, or one core): they take time from each other, so figures mean little.'
  }`,
)
say(`Simulated Ollama at ${upstream}; ${options.rounds} round${options.rounds === 1 ? '' : 's'}.\n`)

if (speed.length > 0) {
  const servers = [simulator, await start.bare(), await start.proxy(), ...options.targets]
  for (const server of servers) await warm(server, 20_000)
  for (let round = 1; round <= options.rounds; round++)
    for (const load of speed) await runRound(load, servers, round)
  for (const server of servers) if (server !== simulator) await server.stop()
  for (const load of speed) say(printLoad(load, measurements))
}

// Memory is measured in processes that have done nothing else, or what they kept from before would hide it.
if (rated.includes('open5000')) {
  for (let round = 1; round <= options.rounds; round++) {
    for (const begin of [start.bare, start.proxy]) {
      const server = await begin()
      await warm(server, 2000)
      await runRound('open5000', [server], round)
      await server.stop()
    }
  }
  say(printLoad('open5000', measurements))
}

let memory: MemoryResult | undefined
if (options.loads.includes('memory')) {
  memory = await measureMemory(upstream, options.requests, (proxy, requests) => {
    const { seconds: _, ...shape } = shapes.plain64(options.short)
    return measure(proxy, { ...shape, warmUp: 0, requests }, simulator.pid)
  })
  const rows = memory.map(one => {
    wrong += one.wrong
    return [one.requests.toLocaleString('en-US'), (one.residentBytes / 2 ** 20).toFixed(1), String(one.wrong)]
  })
  say(
    `Memory of the proxy, plain completions\n\n${toTable(['after requests', 'resident MB', 'wrong'], rows)}\n`,
  )
}

let starts: StartResult[] | undefined
if (options.loads.includes('start')) {
  starts = await measureStarts(upstream, options.rounds, options.rows)
  const rows = starts.map(({ rows, startedMs }) => [
    rows.toLocaleString('en-US'),
    `${Math.round(median(startedMs))} (${startedMs.map(ms => Math.round(ms)).join(', ')})`,
  ])
  say(`Start of the proxy: process to first answer\n\n${toTable(['rows in the ledger', 'ms'], rows)}\n`)
}

await simulator.stop()

if (options.json !== undefined) {
  const isSection = (load: LoadName): load is keyof typeof sections => load in sections
  const summary = Object.fromEntries(
    rated.filter(isSection).map(load => [load, summarize(load, measurements)]),
  )
  await Bun.write(
    options.json,
    `${JSON.stringify({ machine, summary, memory, starts, measurements }, undefined, 2)}\n`,
  )
}
say(
  `${wrong === 0 ? 'Every token arrived, in order and whole' : `${wrong} ANSWERS WERE LOST OR WRONG`}; ${Math.round((performance.now() - began) / 1000)} s.`,
)
process.exit(wrong === 0 ? 0 : 1)
