/** One load of one server. */
import { outputOf } from './children.ts'
import type { LoadOrder, LoadResult } from './load.ts'
import type { Shape } from './loads.ts'
import type { Server } from './servers.ts'

/** Asks `server` for `shape` with a load generator in a process of its own. */
export const measure = async (
  server: Server,
  shape: Shape & { key?: string },
  upstreamPid: number | undefined,
): Promise<LoadResult> => {
  const { host, port, path, dialect, pid } = server
  const key = shape.key ?? server.key
  const order: LoadOrder = {
    status: 200,
    ...shape,
    host,
    port,
    path,
    dialect,
    key,
    serverPid: pid,
    upstreamPid,
  }
  return JSON.parse(await outputOf(['bench/load.ts', JSON.stringify(order)])) as LoadResult
}
