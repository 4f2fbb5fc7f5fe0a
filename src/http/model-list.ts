/** `/v1/models`: what Ollama has, less what the key may not use, under canonical names. */
import { Hono, type MiddlewareHandler } from 'hono'
import { ApiError } from '../errors.ts'
import type { Models } from '../models.ts'
import type { Caller } from '../principals.ts'
import type { Upstream } from '../upstream/ollama.ts'
import { toCanonicalModel } from '../wire/model-name.ts'
import type { AppEnv } from './env.ts'

export type ModelListDeps = { client: MiddlewareHandler<AppEnv>; upstream: Upstream; models: Models }

type ListedModel = { id: string; object: 'model'; created: number; owned_by: string }

/** The namespace in a canonical name: `org` of `hf.co/org/name:Q4`; Ollama's own models are the library's. */
const ownerOf = (canonical: string): string => canonical.split('/').at(-2) ?? 'library'

export const modelRoutes = ({ client, upstream, models }: ModelListDeps) => {
  /** In Ollama's order. Two spellings of one model are one entry, the latest. */
  const list = async (caller: Caller): Promise<Map<string, ListedModel>> => {
    const listed = new Map<string, ListedModel>()
    for (const { name, modifiedAtMs } of await upstream.models()) {
      const id = toCanonicalModel(name)
      if (id === '' || !models.mayUse(caller, id)) continue
      const created = Math.floor(modifiedAtMs / 1000)
      if ((listed.get(id)?.created ?? 0) > created) continue
      listed.set(id, { id, object: 'model', created, owned_by: ownerOf(id) })
    }
    return listed
  }

  return new Hono<AppEnv>()
    .get('/', client, async c => {
      const data = [...(await list(c.get('caller'))).values()]
      // Codex asks with its version and reads `models`; without it, it logs a fault at each start.
      const forCodex = c.req.query('client_version') === undefined ? {} : { models: [] }
      return c.json({ object: 'list', data, ...forCodex })
    })
    .get('/:model{.+}', client, async c => {
      const name = c.req.param('model')
      const model = (await list(c.get('caller'))).get(toCanonicalModel(name))
      if (model !== undefined) return c.json(model)
      const shown = name.length > 100 ? `${name.slice(0, 100)}…` : name
      throw new ApiError(
        'model_not_found',
        `The model '${shown}' does not exist or you do not have access to it.`,
        {
          param: 'model',
        },
      )
    })
}
