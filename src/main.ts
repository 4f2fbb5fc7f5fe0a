/** The entry: read the settings, start, say how to go on, stop in good order. */
import { version } from '../package.json'
import { ConfigError, DEFAULT_ADMIN_KEY, parseConfig } from './config.ts'
import { greet } from './runtime/banner.ts'
import { createLog } from './runtime/log.ts'
import { startServer } from './runtime/server.ts'
import { StartError } from './runtime/start-error.ts'

const start = async () => {
  const config = parseConfig(process.env)
  const log = createLog(config)
  // One late rejection outside a handler would end the process (bun-facts §1.10).
  process.on('unhandledRejection', cause => log.error({ cause }, 'a rejection that nobody handled'))
  process.on('uncaughtException', cause => log.error({ cause }, 'an exception that nobody caught'))
  const server = await startServer(config, { version, log })

  let stopping = false
  const stop = async (signal: NodeJS.Signals) => {
    if (stopping) process.exit(1)
    stopping = true
    log.info({ signal, inFlight: server.inFlight }, 'stopping; a second signal ends at once')
    await server.stop(config.shutdownTimeoutMs)
    process.exit(0)
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)

  await greet({
    server,
    version,
    ollamaUrl: config.ollamaBaseUrl,
    adminKeyIsDefault: config.adminApiKey === DEFAULT_ADMIN_KEY,
    upstreamFetches: process.env['BUN_CONFIG_MAX_HTTP_REQUESTS'],
  })
}

await start().catch(error => {
  // What a person can mend is one message; anything else is a fault of ours and keeps its stack.
  console.error(error instanceof ConfigError || error instanceof StartError ? error.message : error)
  process.exit(1)
})
