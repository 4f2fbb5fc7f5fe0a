/** Bodies of our own API: a few fields, unknown ones refused by name. */
import type { MiddlewareHandler } from 'hono'
import type { z } from 'zod'
import { toInvalidRequest } from '../wire/invalid-request.ts'
import { readJson } from './body.ts'
import type { AppEnv } from './env.ts'

const BYTES_MAX = 1024 * 1024

type Checked<Schema extends z.ZodType> = { in: { json: z.input<Schema> }; out: { json: z.output<Schema> } }

/** Middleware that puts the checked body on the request: `c.req.valid('json')`. */
export const ownBody = <Schema extends z.ZodType<object>>(
  schema: Schema,
): MiddlewareHandler<AppEnv, string, Checked<Schema>> => {
  return async (c, next) => {
    const value = await readJson(c, BYTES_MAX)
    const parsed = schema.safeParse(value)
    if (!parsed.success) throw toInvalidRequest(parsed.error, value)
    c.req.addValidatedData('json', parsed.data)
    await next()
  }
}
