/**
 * The benchmark: a simulated Ollama, a bare pass-through and the proxy, each a process of its own; alternating rounds;
 * every token of every answer checked. A lost or wrong one makes the run fail.
 *
 * `bun run bench [--short] [--rounds 3] [--loads plain64,stream64,…] [--json out.json]
 *  [--target name=http://host:port/v1/chat/completions] [--key sk-…] [--requests 100000] [--rows 0] [--profile folder]`
 *
 * Loads: loads.ts; `fair` (fair.ts) and `slow` (slow.ts) are of the proxy alone, and so are `memory` and `start` (once.ts).
 * `--target` adds a running server whose upstream is `--upstream-port`'s simulated Ollama; `--requests` is for `memory`
 * (1000000 takes some minutes), `--rows` for `start`; `--profile` leaves a CPU profile of the proxy in a folder.
 */
import { cpus, totalmem } from 'node:os'
import { canPin } from './children.ts'
import { measureFairness } from './fair.ts'
import { isForAll, type LoadName, ordersOf, shapes } from './loads.ts'
import { measure } from './measure.ts'
import { type MemoryResult, measureMemory, measureStarts, type StartResult } from './once.ts'
import { fail, readOptions } from './options.ts'
import { type Measurement, median, printLoad, summarize, toTable } from './report.ts'
import { type Result, sections } from './sections.ts'
import { type Server, startBare, startProxyWithUsers, startSimulator } from './servers.ts'
import { canReadSlowly, measureSlowness } from './slow.ts'

const options = readOptions()
const began = performance.now()
const say = (text: string) => console.log(text)

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

const note = (load: LoadName, row: string, round: number, result: Result) => {
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
const speed = rated.filter(load => isForAll(load) && load !== 'open5000')

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

const alone = (load: LoadName) => ({
  rounds: options.rounds,
  short: options.short,
  warm: (server: Server) => warm(server, 5000),
  note: (row: string, round: number, result: Result) => note(load, row, round, result),
})
if (rated.includes('fair')) {
  const said = await measureFairness(alone('fair'))
  say(`${printLoad('fair', measurements)}\n${said}`)
}
if (rated.includes('slow')) {
  if (canReadSlowly) await measureSlowness({ ...alone('slow'), upstream: simulator })
  say(canReadSlowly ? printLoad('slow', measurements) : 'The load "slow" runs on Linux only.\n')
}

let memory: MemoryResult | undefined
if (options.loads.includes('memory')) {
  memory = await measureMemory(upstream, options.requests, (proxy, requests) => {
    const { seconds: _, ...shape } = shapes.plain64(options.short)
    return measure(proxy, { ...shape, warmUp: 0, requests }, simulator.pid)
  })
  const rows = memory.map(one => {
    wrong += one.wrong
    const growth = (one.residentBytes / (memory?.[0]?.residentBytes ?? Number.NaN) - 1) * 100
    return [
      one.requests.toLocaleString('en-US'),
      (one.residentBytes / 2 ** 20).toFixed(1),
      `${growth < 0 ? '' : '+'}${growth.toFixed(1)} %`,
      String(one.wrong),
    ]
  })
  say(
    `Memory of the proxy, plain completions\n\n${toTable(['after requests', 'resident MB', 'over the first', 'wrong'], rows)}\n`,
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
