/** Bodies of our own API: a few fields, unknown ones refused by name. */
import type { MiddlewareHandler } from 'hono'
import type { z } from 'zod'
import { toInvalidRequest } from '../wire/invalid-request.ts'
import { jsonBody } from './body.ts'
import type { AppEnv } from './env.ts'

const BYTES_MAX = 1024 * 1024

type Checked<Schema extends z.ZodType> = { in: { json: z.input<Schema> }; out: { json: z.output<Schema> } }

/** Middleware that puts the checked body on the request: `c.req.valid('json')`. */
export const ownBody = <Schema extends z.ZodType<object>>(
  schema: Schema,
): MiddlewareHandler<AppEnv, string, Checked<Schema>> => {
  const parse = (value: unknown) => {
    const parsed = schema.safeParse(value)
    if (!parsed.success) throw toInvalidRequest(parsed.error, value)
    return parsed.data
  }
  const read = jsonBody(parse, BYTES_MAX)
  return (c, next) =>
    read(c, async () => {
      c.req.addValidatedData('json', c.get('body') as object)
      await next()
    })
}
