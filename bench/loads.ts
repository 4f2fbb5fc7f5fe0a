/** What is asked of the servers, in full and in the short form that only shows that all works. */
import type { LoadOrder } from './load.ts'
import type { Server } from './servers.ts'

export const loadNames = [
  'plain64',
  'stream64',
  'paced512',
  'first1',
  'refused',
  'open5000',
  'fair',
  'slow',
  'memory',
  'start',
] as const
export type LoadName = (typeof loadNames)[number]

/** The shape of a load, for any server. */
export type Shape = Pick<LoadOrder, 'model' | 'stream' | 'tokens' | 'connections' | 'warmUp'> &
  Partial<Pick<LoadOrder, 'connectionsPerSecond' | 'requests' | 'seconds' | 'status' | 'unlike'>>

/** As Ollama does, each line is a write of its own (`b1`), however fast they come. */
const toModel = (tokens: number, intervalMs: number) => ({
  model: `fake-c${tokens}-i${intervalMs}-b1`,
  tokens,
})

const plain = (short: boolean): Shape => ({
  ...toModel(20, 0),
  stream: false,
  connections: 64,
  warmUp: short ? 64 : 1000,
  ...(short ? { requests: 300 } : { seconds: 3 }),
})

const streams = (short: boolean): Shape => ({
  ...toModel(100, 0),
  stream: true,
  connections: 64,
  warmUp: short ? 64 : 200,
  ...(short ? { requests: 100 } : { seconds: 3 }),
})

const paced = (short: boolean): Shape => ({
  ...(short ? toModel(20, 30) : toModel(100, 30)),
  stream: true,
  connections: short ? 128 : 512,
  connectionsPerSecond: 1000,
  warmUp: 0,
})

const first = (short: boolean): Shape => ({
  ...toModel(20, 0),
  stream: true,
  connections: 1,
  warmUp: short ? 5 : 100,
  ...(short ? { requests: 30 } : { seconds: 3 }),
})

const open = (short: boolean): Shape => ({
  ...(short ? toModel(10, 100) : toModel(60, 200)),
  stream: true,
  connections: short ? 300 : 5000,
  connectionsPerSecond: 2000,
  warmUp: 0,
})

/** As many as in `paced512`; long enough for what comes once a second to come several times. */
const fair = (short: boolean): Shape => ({
  ...(short ? toModel(10, 30) : toModel(200, 30)),
  stream: true,
  connections: short ? 64 : 512,
  connectionsPerSecond: 1000,
  warmUp: 0,
})

const slow = (short: boolean): Shape => ({
  ...(short ? toModel(10, 30) : toModel(500, 30)),
  stream: true,
  connections: 64,
  connectionsPerSecond: 1000,
  warmUp: 0,
})

const refused = (short: boolean): Shape => ({ ...plain(short), ...(short ? {} : { seconds: 2 }) })

/** One shape for each load of many rounds; `memory` and `start` are measured once, by themselves. */
export const shapes = {
  plain64: plain,
  stream64: streams,
  paced512: paced,
  first1: first,
  open5000: open,
  fair,
  slow,
}

/** Loads that every server is asked for, one after another; the others are of the proxy alone, each in its own way. */
export const isForAll = (load: LoadName): load is Exclude<LoadName, 'fair' | 'slow' | 'memory' | 'start'> =>
  load !== 'fair' && load !== 'slow' && load !== 'memory' && load !== 'start'

/** Orders of a load for one server, each with the name of its row in the table. */
export const ordersOf = (
  load: LoadName,
  server: Server,
  short: boolean,
): { row: string; order: Shape & { key?: string } }[] => {
  if (!isForAll(load)) return []
  if (load === 'open5000' && server.name === 'direct') return []
  if (load !== 'refused') return [{ row: server.name, order: shapes[load](short) }]
  if (server.name === 'bare') return [{ row: 'bare', order: refused(short) }]
  if (server.closedKeys === undefined) return []
  const { requests, tokens } = server.closedKeys
  return [
    { row: `${server.name} 401`, order: { ...refused(short), key: 'sk-bench-wrong', status: 401 } },
    { row: `${server.name} 429 requests`, order: { ...refused(short), key: requests, status: 429 } },
    // No two alike, so that nothing can be known of a body before it is read.
    {
      row: `${server.name} 429 tokens`,
      order: { ...refused(short), key: tokens, status: 429, unlike: true },
    },
  ]
}
