/** Slow readers: what a thousand clients that hardly read cost in memory, and what others feel of them. */
import { startHelper } from './children.ts'
import { shapes } from './loads.ts'
import { measure } from './measure.ts'
import { residentBytes } from './process.ts'
import type { Result } from './sections.ts'
import { type ProxyServer, type Server, startProxyWithUsers } from './servers.ts'
import type { SlowOrder, SlowResult } from './slow-clients.ts'

/** The library that their sockets come from is Linux's. */
export const canReadSlowly = process.platform === 'linux'

const orderFor = ({ port, path, key = '' }: ProxyServer, short: boolean): SlowOrder => ({
  port,
  path,
  key,
  // More than all buffers on the way can hold, or it would be the stream's length that is measured.
  model: short ? 'fake-c5000-i0-b1' : 'fake-c100000-i0-b1',
  clients: short ? 50 : 1000,
  clientsPerSecond: 500,
})

export type Slowness = {
  upstream: Server & { url: string }
  rounds: number
  short: boolean
  warm: (server: Server) => Promise<void>
  note: (row: string, round: number, result: Result) => void
}

/** One round with a proxy of its own: before the slow clients, while they come, beside them, after they have left. */
const measureRound = async ({ upstream, short, warm, note }: Slowness, round: number) => {
  const proxy = await startProxyWithUsers({ upstream: upstream.url })
  const order = orderFor(proxy, short)
  const paced = (long: boolean) => measure(proxy, shapes.slow(short || !long), upstream.pid)
  try {
    await warm(proxy)
    note('nothing', round, await paced(true))
    const residentBefore = residentBytes(proxy.pid ?? 0)
    const helper = startHelper(['bench/slow-clients.ts', JSON.stringify(order)])
    await helper.line()
    const beside = (result: Result): Result => ({ ...result, residentBefore, slowClients: order.clients })
    note('while they come', round, beside(await paced(false)))
    await helper.line()
    const result = beside(await paced(true))
    const { begun, wrong, faults } = JSON.parse(await helper.finish()) as SlowResult
    note('beside them', round, {
      ...result,
      slowClients: begun,
      wrong: result.wrong + wrong,
      faults: [...result.faults, ...faults],
    })
    note('after they left', round, await paced(false))
  } finally {
    await proxy.stop()
  }
}

/** Notes a row for each phase and round. */
export const measureSlowness = async (slowness: Slowness): Promise<void> => {
  for (let round = 1; round <= slowness.rounds; round++) await measureRound(slowness, round)
}
