/** The simulated Ollama of a run: it breaks single answers, and now and then it crashes and comes back. */
import { faultKinds } from '../src/simulator/behaviour.ts'
import type { ModelSpec } from '../src/simulator/catalogue.ts'
import type { LogEntry } from '../src/simulator/journal.ts'
import { type Simulator, startSimulator } from '../src/simulator/simulator.ts'
import type { Chance } from './plan.ts'

/** Of all answers; spread evenly over the simulator's kinds of faults. */
const FAULT_PROBABILITY = 0.12
const KEPT_ENTRIES = 5_000_000
/** Only to tell of arrivals. */
const KEPT_REQUESTS = 1000
const UP_MS = { least: 2500, most: 6000 }
const DOWN_MS = { least: 50, most: 500 }

export const startOllama = async ({ models, seed }: { models: readonly ModelSpec[]; seed: number }) => {
  let lives = 0
  const start = (port?: number): Promise<Simulator> =>
    startSimulator({
      models,
      faults: { probability: FAULT_PROBABILITY, seed: seed + lives++, kinds: faultKinds },
      keepRequests: KEPT_REQUESTS,
      keepLog: KEPT_ENTRIES,
      ...(port === undefined ? {} : { port }),
    })
  let simulator = await start()
  const { port, url } = simulator
  const past: LogEntry[] = []
  const died = new Set<LogEntry>()

  return {
    url,
    /** Every answer of all lives. */
    log: (): LogEntry[] => [...past, ...simulator.log()],
    /** Answers that a crash cut off. */
    died: died as ReadonlySet<LogEntry>,
    /** Crashes and comes back until `more` says no. */
    async run(chance: Chance, more: () => boolean) {
      while (more()) {
        await Bun.sleep(chance.whole(UP_MS.least, UP_MS.most))
        const log = simulator.log()
        for (const entry of log) if (entry.ended === null) died.add(entry)
        past.push(...log)
        await simulator.close()
        await Bun.sleep(chance.whole(DOWN_MS.least, DOWN_MS.most))
        simulator = await start(port)
      }
    },
    /** Resolves when so many more generating requests have arrived; never, if it crashes before that. */
    async received(count: number) {
      simulator.clear()
      await simulator.arrived(count)
    },
    get crashes() {
      return lives - 1
    },
    close: () => simulator.close(),
  }
}
