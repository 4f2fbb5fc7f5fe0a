/** Completions of a known size, so that a test can say what the bill must be. */
import { done, say } from '../../src/simulator/script.ts'
import { hello, startSession as start } from '../support/session.ts'

export { hello }

/** A parsed answer, to be looked into without a type for every endpoint. */
export type Json = ReturnType<typeof JSON.parse>

export const startSession = async (...options: Parameters<typeof start>) => {
  const { ollama, proxy } = await start(...options)
  const admin = async (...call: Parameters<typeof proxy.admin>) => {
    const answer = await proxy.admin(...call)
    return { ...answer, body: answer.body as Json }
  }
  return { ollama, proxy: { ...proxy, admin } }
}
export type Session = Awaited<ReturnType<typeof startSession>>

/** One answered request that costs exactly so many tokens. */
export const spend = async (
  { ollama, proxy }: Session,
  key: string,
  { prompt = 10, completion = 5, model = 'm' } = {},
) => {
  ollama.next(say('ok'), done({ prompt, completion }))
  const answer = await proxy.call('/v1/chat/completions', { key, json: { model, messages: hello } })
  if (answer.status !== 200) throw new Error(await answer.text())
  return (await answer.json()) as { id: string }
}

/** A GET with a client's key. */
export const get = async ({ proxy }: Session, key: string, path: string) => {
  const response = await proxy.call(path, { key })
  return { status: response.status, headers: response.headers, body: (await response.json()) as Json }
}

/** All pages of a list, following `last_id`. */
export const allPages = async (
  read: (query: string) => Promise<{ body: { data: unknown[]; has_more: boolean; last_id: string } }>,
) => {
  const pages: unknown[][] = []
  let query = ''
  for (;;) {
    const { body } = await read(query)
    pages.push(body.data)
    if (!body.has_more) return pages
    query = `&after=${body.last_id}`
  }
}

export const notFoundBody = {
  error: {
    message: 'There is no such object.',
    type: 'invalid_request_error',
    param: null,
    code: 'not_found',
  },
}
