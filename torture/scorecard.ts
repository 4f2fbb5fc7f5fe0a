/** What was checked, how often, and every hole that was found: one line a check. */

/** Asserts about one thing that can be asked many times. */
type Check = {
  /** One thing looked at; `problem` says what is wrong with it, undefined when nothing is. */
  note: (problem: string | undefined) => void
}

export type Line = { title: string; looked: number; holes: number; examples: readonly string[] }

export type Scorecard = {
  /** The check of this title, made at its first use; lines stand in that order. */
  check: (title: string) => Check
  lines: () => Line[]
  /** All holes of all checks. */
  readonly holes: number
}

const EXAMPLES_MAX = 5

export const createScorecard = (): Scorecard => {
  const checks = new Map<string, Check & { line: Line & { examples: string[] } }>()
  return {
    check(title) {
      const known = checks.get(title)
      if (known !== undefined) return known
      const line = { title, looked: 0, holes: 0, examples: [] as string[] }
      const check = {
        line,
        note(problem: string | undefined) {
          line.looked++
          if (problem === undefined) return
          line.holes++
          if (line.examples.length < EXAMPLES_MAX) line.examples.push(problem)
        },
      }
      checks.set(title, check)
      return check
    },
    lines: () => [...checks.values()].map(({ line }) => line),
    get holes() {
      return [...checks.values()].reduce((sum, { line }) => sum + line.holes, 0)
    },
  }
}

/** One line a check: `ok`, or how many holes with the first five of them below. A check that saw nothing says so. */
export const toText = (lines: readonly Line[]): string =>
  lines
    .map(({ title, looked, holes, examples }) => {
      const verdict = holes > 0 ? `${holes} HOLE${holes === 1 ? '' : 'S'}` : looked > 0 ? 'ok' : 'not seen'
      const head = `${verdict.padEnd(10)} ${title} (${looked})`
      return [head, ...examples.map(example => `             - ${example}`)].join('\n')
    })
    .join('\n')
