/** The logger: pino, as lines of JSON, or readable on a terminal. Never prompts, keys or image bytes. */
import pino from 'pino'
import pretty from 'pino-pretty'
import type { Config } from '../config.ts'
import type { Log } from '../log.ts'

/** `auto` is readable on a terminal and JSON elsewhere. */
export const createLog = ({ logLevel, logFormat }: Pick<Config, 'logLevel' | 'logFormat'>): Log => {
  const options = { level: logLevel, base: null, serializers: { cause: pino.stdSerializers.err } }
  const readable = logFormat === 'pretty' || (logFormat === 'auto' && process.stdout.isTTY === true)
  // Written in this thread: a transport of pino's own would be a Worker, which a kill could leave unflushed.
  if (readable) return pino(options, pretty({ sync: true }))
  const destination = pino.destination({ dest: 1, sync: true })
  // A log that can't be written (a full disk, a closed pipe) must not break an answer: its line is lost.
  destination.on('error', () => {})
  return pino(options, destination)
}
