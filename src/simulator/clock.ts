/**
 * Microseconds that separate processes on one machine agree on, so that a load generator can subtract the moment a token
 * was written from the moment it arrived: CLOCK_MONOTONIC where the C library can be asked, the wall clock elsewhere.
 */
import { dlopen, FFIType, ptr } from 'bun:ffi'

const monotonicOffsetUs = (): number | undefined => {
  const [library, clock] = process.platform === 'darwin' ? ['libSystem.B.dylib', 6] : ['libc.so.6', 1]
  try {
    const libc = dlopen(String(library), {
      clock_gettime: { args: [FFIType.i32, FFIType.ptr], returns: FFIType.i32 },
    })
    const time = new BigInt64Array(2)
    const before = Bun.nanoseconds()
    libc.symbols.clock_gettime(Number(clock), ptr(time))
    const us = Number((time[0] ?? 0n) * 1_000_000n + (time[1] ?? 0n) / 1000n)
    libc.close()
    return us - before / 1000
  } catch {
    return undefined
  }
}

const offsetUs = monotonicOffsetUs() ?? Date.now() * 1000 - Bun.nanoseconds() / 1000

/** Whole microseconds; only differences mean something. */
export const sharedMicros = () => Math.floor(Bun.nanoseconds() / 1000 + offsetUs)
