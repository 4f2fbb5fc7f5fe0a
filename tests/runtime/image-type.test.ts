import { expect, test } from 'bun:test'
import { sniffImageType } from '../../src/runtime/image-type.ts'

const base64 = (text: string) => Uint8Array.from(atob(text), character => character.charCodeAt(0))
const bytes = (...parts: (string | number[])[]) =>
  Uint8Array.from(
    parts.flatMap(part => (typeof part === 'string' ? [...part].map(c => c.charCodeAt(0)) : part)),
  )

const png = base64(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
)

test('the type comes from the bytes', async () => {
  const jpeg = bytes([0xff, 0xd8, 0xff, 0xe0, 0, 16], 'JFIF', [0, 1, 1])
  const gif = bytes('GIF89a', [1, 0, 1, 0, 0, 0, 0])
  const webp = bytes('RIFF', [26, 0, 0, 0], 'WEBPVP8L', [13, 0, 0, 0, 0x2f])
  const types = await Promise.all([png, jpeg, gif, webp].map(sniffImageType))
  expect(types).toEqual(['image/png', 'image/jpeg', 'image/gif', 'image/webp'])
})

test('an image whose first data lies behind a large colour profile is still recognised', async () => {
  const profile = bytes([0, 0, 0x40, 0], 'iCCP', Array(0x4000).fill(7), [0, 0, 0, 0])
  const large = Uint8Array.from([...png.subarray(0, 33), ...profile, ...png.subarray(33)])
  expect(await sniffImageType(large)).toBe('image/png')
})

test('what is no image is not taken for one', async () => {
  expect(await sniffImageType(new Uint8Array())).toBeUndefined()
  expect(await sniffImageType(bytes('<html><body>not found</body></html>'))).toBeUndefined()
  expect(await sniffImageType(png.subarray(0, 4))).toBeUndefined()
  expect(await sniffImageType(bytes('%PDF-1.7\n'))).toBe('application/pdf')
})

test('an archive full of nothing is recognised, not unpacked', async () => {
  const bomb = Bun.gzipSync(new Uint8Array(64 * 1024 * 1024))
  const started = performance.now()
  expect(await sniffImageType(bomb)).toBe('application/gzip')
  expect(performance.now() - started).toBeLessThan(500)
})
