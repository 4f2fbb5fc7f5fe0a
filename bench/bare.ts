/**
 * What everything is measured against: a pass-through that reads nothing and does nothing.
 * `PORT=… UPSTREAM=http://… bun bench/bare.ts` prints its address.
 */
const upstream = process.env['UPSTREAM'] ?? 'http://127.0.0.1:11434'

const server = Bun.serve({
  hostname: '127.0.0.1',
  port: Number(process.env['PORT'] ?? 0),
  idleTimeout: 0,
  development: false,
  async fetch(request) {
    return fetch(upstream + new URL(request.url).pathname, {
      method: request.method,
      headers: { 'content-type': 'application/json' },
      body: await request.text(),
      signal: request.signal,
    })
  },
})
console.log(`Pass-through at ${server.url}`)
