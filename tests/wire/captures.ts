import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createLineDecoder } from '../../src/wire/framing.ts'
import type { Line } from '../../src/wire/ollama.ts'

const root = join(import.meta.dir, '../fixtures/captures')

/** The bytes of a recorded body, e.g. `chat-hello-stream/response.ndjson`. */
export const capturedBytes = (file: string): Uint8Array => new Uint8Array(readFileSync(join(root, file)))

/** Recorded answers of /api/chat under status 200, streamed and whole, by their file. */
export const chatAnswers = (): string[] =>
  readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter(file => /^chat-.*response\.(ndjson|json)$/.test(file))
    .filter(file => {
      const headers = readFileSync(
        join(root, file.replace(/response\.\w+$/, 'response.headers.json')),
        'utf8',
      )
      const request = readFileSync(join(root, file.replace(/response\.\w+$/, 'request.json')), 'utf8')
      return JSON.parse(headers).status === 200 && JSON.parse(request).path === '/api/chat'
    })
    .sort()

export const decode = (bytes: Uint8Array): Line[] => {
  const decoder = createLineDecoder({ lineBytesMax: 1 << 20 })
  return [...decoder.push(bytes), ...decoder.end()]
}

export const capturedLines = (file: string): Line[] => decode(capturedBytes(file))
