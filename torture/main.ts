/**
 * Torture for the bill: many clients, an upstream that dies in every way, `kill -9` at random moments; then the ledger
 * is held against the simulated Ollama's own log. Exits with 1 when there is a hole.
 *
 * `bun run torture [--seconds 30] [--kills N] [--clients 32] [--seed N] [--keep]`
 * `bun run torture --target http://host:port --key sk-… [--model NAME]`: the checks that need only the wire, against
 * any OpenAI-compatible server.
 */
import { parseArgs } from 'node:util'
import { runTorture } from './run.ts'
import { toText } from './scorecard.ts'
import { runTarget } from './target.ts'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string' },
    kills: { type: 'string' },
    clients: { type: 'string', default: '32' },
    seed: { type: 'string' },
    target: { type: 'string' },
    key: { type: 'string', default: '' },
    model: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
})

const number = (name: string, text: string): number => {
  const value = Number(text)
  if (Number.isSafeInteger(value) && value >= 1) return value
  console.error(`--${name} must be a whole number of 1 or more, not "${text}"`)
  process.exit(2)
}

const seed =
  values.seed === undefined ? Math.floor(Math.random() * 1_000_000) + 1 : number('seed', values.seed)
const clients = number('clients', values.clients)
/** With --kills alone it takes as long as that needs. */
const seconds = number('seconds', values.seconds ?? (values.kills === undefined ? '30' : '86400'))
const began = performance.now()

const say = (counts: Record<string, number>) =>
  Object.entries(counts)
    .sort(([, a], [, b]) => b - a)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ')

if (values.target !== undefined) {
  console.log(`Wire checks of ${values.target}, seed ${seed}, ${clients} clients, ${seconds} s`)
  const scorecard = await runTarget({
    url: values.target,
    key: values.key,
    model: values.model,
    seconds,
    clients,
    seed,
  })
  console.log(toText(scorecard.lines()))
  process.exit(scorecard.holes === 0 ? 0 : 1)
}

console.log(
  `Torture with seed ${seed}: ${clients} clients, ${values.kills === undefined ? `${seconds} s` : `${values.kills} kills`}`,
)
const result = await runTorture({
  seconds,
  clients,
  seed,
  keep: values.keep,
  ...(values.kills === undefined ? {} : { kills: number('kills', values.kills) }),
})
console.log(`
${result.requests} requests by clients, ${result.kills} kills, ${result.crashes} crashes of Ollama, ${result.rows} rows, ${((performance.now() - began) / 1000).toFixed(0)} s
rows:   ${say(result.outcomes)}
Ollama: ${say(result.ended)}
${values.keep ? `file:   ${result.databasePath}\n` : ''}
${toText(result.lines)}

${result.holes === 0 ? 'No hole.' : `${result.holes} holes. The same plan again: --seed ${seed}`}`)
process.exit(result.holes === 0 ? 0 : 1)
