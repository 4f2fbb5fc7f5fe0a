/** Threads beside the event loop. */
import { readlinkSync } from 'node:fs'
import { setPriority } from 'node:os'

/**
 * Streams come first: at nice 19 a report of half a second adds nothing to a token's delay, but where a model works on
 * all cores it gets next to no time; at nice 5, about a quarter of a core. Linux alone has a priority per thread;
 * where it is refused or unknown, the calling thread runs on like everything else.
 */
export const giveWay = (niceness: 5 | 19) => {
  if (process.platform !== 'linux') return
  try {
    setPriority(Number(readlinkSync('/proc/thread-self').split('/').pop()), niceness)
  } catch {
    // Without /proc, or forbidden: only a little slower for the streams.
  }
}
