/** What the kernel says of a process: its CPU time and memory. Linux only; undefined elsewhere. */
import { readdirSync, readFileSync } from 'node:fs'

/** CPU time of all threads that live, in ms, to the nanosecond: the ticks of /proc/PID/stat are too coarse. */
export const cpuMs = (pid: number): number | undefined => {
  try {
    let ns = 0
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      ns += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1').split(' ')[0])
    }
    return ns / 1e6
  } catch {
    return undefined
  }
}

/** Resident memory in bytes. */
export const residentBytes = (pid: number): number | undefined => {
  try {
    const kilobytes = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]
    return kilobytes === undefined ? undefined : Number(kilobytes) * 1024
  } catch {
    return undefined
  }
}
