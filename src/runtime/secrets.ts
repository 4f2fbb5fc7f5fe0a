/** Chance and digests, from the platform. */
const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
/** Bytes from 248 on are drawn again, or the first eight letters would come more often. */
const FAIR_BYTES = 248

/** `length` letters of base62, each one of 62 with the same chance. */
export const randomText = (length: number): string => {
  let text = ''
  while (text.length < length) {
    for (const byte of crypto.getRandomValues(new Uint8Array(64))) {
      if (byte < FAIR_BYTES && text.length < length) text += BASE62[byte % 62]
    }
  }
  return text
}

/** 43 letters of base62 hold 256 bits. */
export const newSecret = (): string => randomText(43)

export const newToolCallId = (): string => `call_${randomText(24)}`

/** SHA-256 of a text's UTF-8, as hex. A third of the time of `node:crypto`: it is taken at every request. */
export const sha256 = (text: string): string => Bun.SHA256.hash(text, 'hex')
