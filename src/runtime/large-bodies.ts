/** Large bodies in a Worker: started by the first, one for all, a body after the other. */
import { Worker } from 'node:worker_threads'
import { ApiError } from '../errors.ts'
import type { ChatOutline, LargeBody } from '../http/large-body.ts'

export type Wish =
  | { do: 'add'; id: number; chunk: Uint8Array }
  /** `seq`: the number of the answer. */
  | { do: 'end'; id: number; seq: number }
  | { do: 'slice'; id: number; seq: number; offset: number }
  | { do: 'drop'; id: number }

export type Reply = { seq: number } & (
  | { outline: ChatOutline }
  | { bytes: Uint8Array<ArrayBuffer> }
  /** `next`: where the next slice begins; null after the last one. */
  | { slice: Uint8Array; next: number | null }
  | { fault: { kind: ApiError['kind']; message: string; details: ConstructorParameters<typeof ApiError>[2] } }
  | { error: string }
)

type Waiter = { resolve: (reply: Reply) => void; reject: (error: Error) => void }

const start = () => new Worker(new URL('./body-worker.ts', import.meta.url))

/** `begin` is a BeginLargeBody. A Worker that dies takes its bodies with it: their requests fail, the next starts anew. */
export const createLargeBodies = (startWorker = start) => {
  const waiting = new Map<number, Waiter>()
  let begun = 0
  let asked = 0
  let worker: Worker | undefined

  const answered = (reply: Reply) => {
    const waiter = waiting.get(reply.seq)
    waiting.delete(reply.seq)
    if (waiting.size === 0) worker?.unref()
    if ('error' in reply) waiter?.reject(new Error(reply.error))
    else if ('fault' in reply) {
      const { kind, message, details } = reply.fault
      waiter?.reject(new ApiError(kind, message, details))
    } else waiter?.resolve(reply)
  }

  const ended = (reason: Error, thread = worker) => {
    if (thread !== worker) return
    worker = undefined
    for (const waiter of waiting.values()) waiter.reject(reason)
    waiting.clear()
  }

  const running = (): Worker => {
    if (worker !== undefined) return worker
    const started = startWorker()
    started.on('message', answered)
    started.on('error', (reason: Error) => ended(reason, started))
    started.on('exit', () => ended(new Error('the Worker for large bodies ended'), started))
    started.unref()
    worker = started
    return started
  }

  const ask = (thread: Worker, toWish: (seq: number) => Wish): Promise<Reply> =>
    new Promise((resolve, reject) => {
      // Of one that has died no answer would ever come.
      if (thread !== worker) return reject(new Error('the Worker for large bodies has ended'))
      asked += 1
      waiting.set(asked, { resolve, reject })
      thread.ref()
      thread.postMessage(toWish(asked))
    })

  const begin = (): LargeBody => {
    begun += 1
    const id = begun
    const thread = running()
    return {
      add(chunk) {
        // What does not own its buffer, or shares it, is copied: giving it away would empty other arrays too.
        const own = chunk.byteLength === chunk.buffer.byteLength ? chunk : chunk.slice()
        thread.postMessage({ do: 'add', id, chunk: own } satisfies Wish, [own.buffer as ArrayBuffer])
      },
      async end() {
        const reply = await ask(thread, seq => ({ do: 'end', id, seq }))
        if ('outline' in reply) return reply.outline
        if ('bytes' in reply) return reply.bytes
        throw new Error('a large body was answered by something else')
      },
      messages() {
        let offset: number | null = 0
        return new ReadableStream<Uint8Array>(
          {
            async pull(controller) {
              const from = offset
              if (from === null) return controller.close()
              const reply = await ask(thread, seq => ({ do: 'slice', id, seq, offset: from }))
              if (!('slice' in reply)) throw new Error('a slice was answered by something else')
              controller.enqueue(reply.slice)
              offset = reply.next
            },
          },
          { highWaterMark: 0 },
        )
      },
      drop() {
        thread.postMessage({ do: 'drop', id } satisfies Wish)
      },
    }
  }

  return {
    begin,
    async close() {
      const last = worker
      ended(new Error('the server is shutting down'))
      await last?.terminate()
    },
  }
}
