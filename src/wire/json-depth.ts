/**
 * JSON of a client's that is passed on as it is. `JSON.parse` takes any depth, `JSON.stringify` overflows the stack
 * past some ten thousand levels, and Ollama's decoder stops at ten thousand.
 */

/** No schema or argument that means anything comes near it. */
export const depthMax = 200

/** Whether arrays and objects are nested in each other more than `levels` deep; 0 levels is a plain value. */
export const deeperThan = (value: unknown, levels: number): boolean => {
  if (typeof value !== 'object' || value === null) return false
  if (levels === 0) return true
  for (const child of Array.isArray(value) ? value : Object.values(value))
    if (deeperThan(child, levels - 1)) return true
  return false
}
