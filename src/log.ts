/** What the core asks of a logger; the door supplies a library's. No prompts, no keys, no image bytes ever go in. */
export type Log = {
  [Level in 'debug' | 'info' | 'warn' | 'error']: (fields: Record<string, unknown>, message: string) => void
}
