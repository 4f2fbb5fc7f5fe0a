/**
 * Faults of a request in OpenAI's words: code and `param` as openai-api §1.4 says. The message names the field and
 * what was expected, never the value itself, which may be a secret or a megabyte.
 */
import type { z } from 'zod'
import { type ApiError, invalid } from '../errors.ts'

/** Kinds of JSON value as a sentence names them. */
const nameOf = (value: unknown): string => {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  switch (typeof value) {
    case 'number':
      return Number.isInteger(value) ? 'an integer' : 'a decimal'
    case 'object':
      return 'an object'
    default:
      return `a ${typeof value}`
  }
}

/** A required field is absent (or null, or an empty name). */
export const missing = (param: string): ApiError =>
  invalid(param, `Missing required parameter: '${param}'.`, 'missing_required_parameter')

/** A value of the wrong JSON type; `expected` with its article: `a string`. */
export const wrongType = (param: string, expected: string, value: unknown): ApiError =>
  invalid(param, `Invalid type for '${param}': expected ${expected}, got ${nameOf(value)}.`, 'invalid_type')

/** A value of the right type that cannot be; `reason` is a sentence. */
export const wrongValue = (param: string, reason: string, code = 'invalid_value'): ApiError =>
  invalid(param, `Invalid value for '${param}': ${reason}`, code)

/** A field that a strict object does not have. */
const unknownField = (param: string): ApiError =>
  invalid(param, `Unknown parameter: '${param}'.`, 'unknown_parameter')

/** Path segments in OpenAI's style: `messages[0].content[1].image_url`. */
export const toParam = (path: readonly PropertyKey[]): string =>
  path.reduce<string>((param, key) => {
    if (typeof key === 'number') return `${param}[${key}]`
    return param === '' ? String(key) : `${param}.${String(key)}`
  }, '')

/** A JSON object, as opposed to an array or null. */
export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const valueAt = (body: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>(
    (value, key) =>
      typeof value === 'object' && value !== null && Object.hasOwn(value, key)
        ? (value as Record<PropertyKey, unknown>)[key]
        : undefined,
    body,
  )

const articles: Record<string, string> = {
  array: 'an array',
  boolean: 'a boolean',
  int: 'an integer',
  number: 'a number',
  object: 'an object',
  record: 'an object',
  string: 'a string',
}
const withArticle = (expected: string): string => articles[expected] ?? expected

const bound = (origin: string, side: 'min' | 'max', value: unknown): string => {
  const place = side === 'min' ? 'below' : 'above'
  if (origin === 'string' || origin === 'array') return `${origin}_${place}_${side}_length`
  return `${Number.isInteger(value) ? 'integer' : 'decimal'}_${place}_${side}_value`
}

type Issue = z.core.$ZodIssue

/** Of a union that failed: the alternative that got furthest into the value tells most. */
const deepest = (issue: z.core.$ZodIssueInvalidUnion): Issue | undefined => {
  const inner = issue.errors
    .map(([first]) => first)
    .filter(first => first !== undefined && first.path.length > 0)
  return inner[0]
}

const toFault = (issue: Issue, path: PropertyKey[], body: unknown): ApiError => {
  const param = toParam(path)
  const value = valueAt(body, path)
  switch (issue.code) {
    case 'invalid_type':
      if (value === undefined || value === null) return missing(param)
      return wrongType(param, withArticle(issue.expected), value)
    case 'invalid_union': {
      const inner = deepest(issue)
      if (inner !== undefined) return toFault(inner, [...path, ...inner.path], body)
      const expected = issue.errors.map(([first]) =>
        first?.code === 'invalid_type' ? withArticle(first.expected) : 'another value',
      )
      return wrongType(param, [...new Set(expected)].join(' or '), value)
    }
    case 'too_small':
      if (issue.origin === 'array' && issue.minimum === 1)
        return wrongValue(param, 'expected at least one element.', 'empty_array')
      return wrongValue(param, `expected at least ${issue.minimum}.`, bound(issue.origin, 'min', value))
    case 'too_big':
      return wrongValue(param, `expected at most ${issue.maximum}.`, bound(issue.origin, 'max', value))
    case 'invalid_value':
      return wrongValue(
        param,
        `supported values are ${issue.values.map(one => `'${String(one)}'`).join(', ')}.`,
      )
    case 'custom': {
      const { expected, absent } = issue.params ?? {}
      if (absent === true) return missing(param)
      if (typeof expected === 'string') return wrongType(param, expected, value)
      return wrongValue(param, `${issue.message}.`)
    }
    default:
      return wrongValue(param, 'it does not have the expected form.')
  }
}

/**
 * zod's first issue as a 400. `body` is what was validated: zod does not keep it, and an absent field is told from
 * one of a wrong type by looking. A schema's own checks say what they mean in `params`: `{ absent: true }` for a
 * value that counts as missing, `{ expected: 'an integer' }` for a type JSON does not have.
 */
export const toInvalidRequest = (error: z.core.$ZodError, body: unknown): ApiError => {
  const issue = error.issues[0]
  if (issue === undefined) return invalid(null, 'The request is not valid.', null)
  if (issue.code === 'unrecognized_keys')
    return unknownField(toParam([...issue.path, ...issue.keys.slice(0, 1)]))
  if (issue.path.length === 0)
    return invalid(null, `The body must be a JSON object, got ${nameOf(body)}.`, 'invalid_type')
  return toFault(issue, [...issue.path], body)
}
