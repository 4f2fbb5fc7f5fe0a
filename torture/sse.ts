/** Server-sent events as a client reads them, and how many of the simulated models' tokens a text holds. */

/** Splits bytes into the `data` of events; comments are left out. */
export const createEventReader = () => {
  const decoder = new TextDecoder()
  let held = ''
  return (bytes: Uint8Array): string[] => {
    held += decoder.decode(bytes, { stream: true })
    const parts = held.split('\n\n')
    held = parts.pop() ?? ''
    return parts
      .flatMap(part => part.split('\n').filter(line => line.startsWith('data: ')))
      .map(line => line.slice(6))
  }
}

/**
 * Tokens in a text of the simulated models: each of their words is one, and begins with a blank or is a comma, a full
 * stop or a line break; none holds one of these further in.
 */
export const countWords = (text: string): number => text.match(/[ ,.\n]/g)?.length ?? 0

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null

/** A field of an object of unknown shape; undefined where there is none. */
export const field = (value: unknown, name: string): unknown => (isRecord(value) ? value[name] : undefined)

export const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : [])
