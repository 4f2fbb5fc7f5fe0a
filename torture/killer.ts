/** Kills the proxy at moments drawn from a seed: after a time, or in the very turn in which a client sees something. */
import type { Moment } from './client.ts'
import type { Chance } from './plan.ts'
import type { ProxyProcess } from './proxy.ts'

/** What clients see, and the very arrival of a request at Ollama: by then its row must be committed. */
type Target = Moment | 'received'
type Aim = { moment: Target; left: number }

const moments: readonly Target[] = [
  'sent',
  'received',
  'received',
  'first token',
  'token',
  'token',
  'end',
  'end',
]
/** The proxy lives at least so long, so that requests get somewhere, and is killed by then in any case. */
const LIFE_MS = { least: 150, most: 1200 }

export const createKiller = (
  proxy: ProxyProcess,
  received: (count: number) => Promise<void>,
  chance: Chance,
) => {
  let aim: Aim | undefined
  let struck: (() => void) | undefined

  const strike = () => {
    aim = undefined
    proxy.kill()
    struck?.()
  }

  const once = async () => {
    const byTime = chance.hit(0.35)
    const moment = chance.pick(moments)
    const count = moment === 'token' ? chance.whole(1, 120) : chance.whole(1, 8)
    const lifeMs = chance.whole(LIFE_MS.least, LIFE_MS.most)
    await Bun.sleep(byTime ? lifeMs : LIFE_MS.least)
    if (byTime) return strike()
    const { promise, resolve } = Promise.withResolvers<void>()
    struck = resolve
    const own: Aim = { moment, left: count }
    aim = own
    if (moment === 'received')
      void received(count).then(() => {
        if (aim === own) strike()
      })
    const timer = setTimeout(strike, LIFE_MS.most)
    await promise
    clearTimeout(timer)
    struck = undefined
  }

  return {
    /** Told by the clients, synchronously. */
    reached(moment: Moment) {
      if (aim === undefined || aim.moment !== moment) return
      aim.left--
      if (aim.left <= 0) strike()
    },
    /** Kills and restarts until `more` says no. */
    async run(more: () => boolean) {
      while (more()) {
        await once()
        await proxy.restart()
      }
    },
  }
}
