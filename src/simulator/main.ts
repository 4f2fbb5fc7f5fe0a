/**
 * The simulated Ollama as a process of its own.
 *
 * `bun src/simulator/main.ts [--port 11500] [--host 127.0.0.1] [--models demo,thinker] [--pace 20] [--faults 0.05]
 * [--fault-kinds reset,truncate] [--seed 1] [--log 1000000]`
 *
 * Prints its address as its only line. `--pace` is the pause before each token of the canned models, in ms; `--log` how
 * many entries `GET /__log?after=SEQ&limit=N` remembers. Models named `fake-c100-i20-…` always exist (steering.ts).
 */
import { parseArgs } from 'node:util'
import { type FaultKind, faultKinds } from './behaviour.ts'
import { startSimulator } from './simulator.ts'

const isFaultKind = (text: string): text is FaultKind => faultKinds.some(kind => kind === text)

const fail = (sentence: string): never => {
  console.error(sentence)
  process.exit(2)
}

const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '11500' },
    host: { type: 'string', default: '127.0.0.1' },
    models: { type: 'string' },
    pace: { type: 'string', default: '0' },
    faults: { type: 'string', default: '0' },
    'fault-kinds': { type: 'string', default: faultKinds.join(',') },
    seed: { type: 'string', default: '1' },
    log: { type: 'string', default: '1000000' },
  },
})

const number = (name: 'port' | 'pace' | 'faults' | 'seed' | 'log') => {
  const value = Number(values[name])
  return Number.isFinite(value) && value >= 0
    ? value
    : fail(`--${name} must be a number, not "${values[name]}"`)
}

const kinds = values['fault-kinds'].split(',').map(kind => {
  if (isFaultKind(kind)) return kind
  return fail(`--fault-kinds knows ${faultKinds.join(', ')}, not "${kind}"`)
})

const port = number('port')
try {
  const simulator = await startSimulator({
    hostname: values.host,
    port,
    ...(values.models === undefined ? {} : { models: values.models.split(',') }),
    msPerToken: number('pace'),
    faults: { probability: number('faults'), seed: number('seed'), kinds },
    keepRequests: 0,
    keepLog: number('log'),
  })
  console.log(`Simulated Ollama at ${simulator.url}`)
  const stop = () => void simulator.close().then(() => process.exit(0))
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
} catch (error) {
  fail(
    `The simulated Ollama cannot listen on ${values.host}:${port}: ${error instanceof Error ? error.message : error}`,
  )
}
