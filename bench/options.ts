/** What the benchmark is asked to do, as its command line says it; what can't be read is one sentence and the end. */
import { parseArgs } from 'node:util'
import { type LoadName, loadNames } from './loads.ts'
import { serverAt } from './servers.ts'

export const fail = (sentence: string): never => {
  console.error(sentence)
  process.exit(2)
}

export const readOptions = () => {
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
