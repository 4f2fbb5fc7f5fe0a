/** Processes of a benchmark, each on its core: servers on core 1, all else on core 0. None outlives the run. */
import { resolve } from 'node:path'

const root = resolve(import.meta.dir, '..')
/** Without it 256 requests run at once and the others wait in silence. */
const bunSettings = { BUN_CONFIG_MAX_HTTP_REQUESTS: '65535' }

/** Whether processes can be given a core of their own. */
export const canPin = Bun.which('taskset') !== null && navigator.hardwareConcurrency >= 2

const pinned = (core: number, command: string[]) =>
  canPin ? ['taskset', '-c', String(core), ...command] : command

const children = new Set<Bun.Subprocess>()
// However a run ends, nothing of it stays behind.
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
})

/** Starts `bun …args`; what it prints goes into the file `output`, or into a pipe. */
export const run = (
  core: 0 | 1,
  args: string[],
  env: Record<string, string> = {},
  output: string | undefined = undefined,
) => {
  const child = Bun.spawn(pinned(core, [process.execPath, ...args]), {
    cwd: root,
    env: { ...process.env, ...bunSettings, ...env },
    stdout: output === undefined ? 'pipe' : Bun.file(output),
    stderr: 'inherit',
  })
  children.add(child)
  void child.exited.then(() => children.delete(child))
  return child
}

export type Child = ReturnType<typeof run>

/** Runs a child of the load's side to its end: what it printed. */
export const outputOf = async (args: string[]): Promise<string> => {
  const child = run(0, args)
  const text = await new Response(child.stdout as ReadableStream).text()
  if ((await child.exited) !== 0) throw new Error(`${args[0]} failed`)
  return text
}

/** A child of the load's side that works until it is told to finish, and then prints what it has seen. */
export type Helper = {
  /** The next line that it prints. */
  line(): Promise<string>
  /** Tells it to finish: its last line. */
  finish(): Promise<string>
}

/** Starts one; it has begun its work, or is about to, when its first line is there. */
export const startHelper = (args: string[]): Helper => {
  const child = run(0, args)
  const reader = (child.stdout as ReadableStream<Uint8Array>).getReader()
  const decoder = new TextDecoder()
  let pending = ''
  const line = async (): Promise<string> => {
    for (;;) {
      const end = pending.indexOf('\n')
      if (end >= 0) {
        const text = pending.slice(0, end)
        pending = pending.slice(end + 1)
        return text
      }
      const { done, value } = await reader.read()
      if (done) throw new Error(`${args[0]} ended early: ${pending}`)
      pending += decoder.decode(value, { stream: true })
    }
  }
  return {
    line,
    async finish() {
      child.kill('SIGTERM')
      const text = await line()
      await child.exited
      return text
    },
  }
}
