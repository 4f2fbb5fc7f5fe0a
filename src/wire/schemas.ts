/**
 * JSON Schemas of tools, put into the form that survives Ollama. Its fixed structure keeps `type`, `anyOf`, `items`,
 * `description`, `enum`, `properties` and `required`, and drops `oneOf`, `allOf`, `$ref` and `const` in silence
 * (ollama-api §1.3): a model would be told nothing of such an argument.
 */
import { isObject } from './invalid-request.ts'

type Schema = Record<string, unknown>

/** Schemas visited at most: inlining can grow exponentially, and every one of them is prompt. */
const schemasMax = 5_000
/** Levels at most, inlined ones counted. */
const levelsMax = 100

/** Thrown inside, and turned into undefined at the door. */
class TooLarge extends Error {}

const unescapePointer = (segment: string) =>
  decodeURIComponent(segment).replaceAll('~1', '/').replaceAll('~0', '~')

/** What `#/$defs/name` points to; undefined for other documents and for pointers into nothing. */
const resolve = (root: Schema, ref: string): Schema | undefined => {
  if (ref === '#') return root
  if (!ref.startsWith('#/')) return undefined
  let value: unknown = root
  for (const segment of ref.slice(2).split('/')) {
    let key: string
    try {
      key = unescapePointer(segment)
    } catch {
      return undefined
    }
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return undefined
    value = (value as Record<string, unknown>)[key]
  }
  return isObject(value) ? value : undefined
}

const listOf = (value: unknown): unknown[] => (Array.isArray(value) ? value : [])
const fieldsOf = (value: unknown): Schema => (isObject(value) ? value : {})

/** All of several schemas at once, as far as one object can say it: fields are gathered, the later word wins. */
const conjoin = (parts: Schema[]): Schema => {
  const whole: Schema = {}
  for (const part of parts) {
    const { properties, required, ...rest } = part
    Object.assign(whole, rest)
    if (isObject(properties)) whole['properties'] = { ...fieldsOf(whole['properties']), ...properties }
    if (Array.isArray(required)) whole['required'] = [...new Set([...listOf(whole['required']), ...required])]
  }
  return whole
}

/**
 * The same schema without `$ref`, `oneOf`, `allOf` and `const`, or undefined when it would become too large. A type
 * that contains itself is unrolled once and then only named by its `type` and `description`.
 */
export const flattenSchema = (root: Schema): Schema | undefined => {
  let visited = 0

  const flattenMap = (map: Schema, refs: readonly string[], level: number): Schema =>
    Object.fromEntries(Object.entries(map).map(([name, schema]) => [name, flatten(schema, refs, level)]))

  const flattenAll = (schemas: unknown[], refs: readonly string[], level: number) =>
    schemas.map(schema => flatten(schema, refs, level))

  const inline = (ref: string, siblings: Schema, refs: readonly string[], level: number): Schema => {
    const target = resolve(root, ref)
    if (target === undefined) return flattenObject(siblings, refs, level)
    if (refs.includes(ref)) {
      const { type, description } = { ...target, ...siblings }
      return {
        ...(type === undefined ? {} : { type }),
        ...(description === undefined ? {} : { description }),
      }
    }
    return conjoin([
      flattenObject(target, [...refs, ref], level + 1),
      flattenObject(siblings, refs, level + 1),
    ])
  }

  const flattenObject = (schema: Schema, refs: readonly string[], level: number): Schema => {
    visited += 1
    if (visited > schemasMax || level > levelsMax) throw new TooLarge()
    const { $ref: ref, ...siblings } = schema
    if (typeof ref === 'string') return inline(ref, siblings, refs, level)
    const flat: Schema = {}
    for (const [key, value] of Object.entries(schema)) {
      switch (key) {
        case '$defs':
        case 'definitions':
          // Every use is inlined; what is left of them would be prompt that nobody needs.
          break
        case 'properties':
          flat[key] = isObject(value) ? flattenMap(value, refs, level + 1) : value
          break
        case 'items':
        case 'prefixItems':
        case 'additionalProperties':
        case 'not':
          flat[key] = Array.isArray(value)
            ? flattenAll(value, refs, level + 1)
            : flatten(value, refs, level + 1)
          break
        case 'anyOf':
        case 'oneOf':
          flat['anyOf'] = [...listOf(flat['anyOf']), ...flattenAll(listOf(value), refs, level + 1)]
          break
        case 'const':
          flat['enum'] = [value]
          break
        case 'allOf':
          break
        default:
          flat[key] = value
      }
    }
    const every = flattenAll(listOf(schema['allOf']), refs, level + 1).filter(isObject)
    return every.length === 0 ? flat : conjoin([...every, flat])
  }

  /** A schema may also be `true` or `false`. */
  const flatten = (schema: unknown, refs: readonly string[], level: number): unknown =>
    isObject(schema) ? flattenObject(schema, refs, level) : schema

  try {
    return flattenObject(root, ['#'], 0)
  } catch (error) {
    if (error instanceof TooLarge) return undefined
    throw error
  }
}
