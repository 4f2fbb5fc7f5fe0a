/**
 * Images of a message: data URLs become the raw base64 Ollama takes, http(s) URLs are left for whoever fetches.
 * Every fault's `param` ends in `.image_url`, which some clients look for.
 */
import { invalid } from '../errors.ts'

/** An http(s) URL whose bytes belong, as base64, in `request.messages[messageIndex].images[imageIndex]`. */
export type ImageRef = { url: string; param: string; messageIndex: number; imageIndex: number }

/** An image that came inside the request and is in its place already; its type is still to be looked at. */
export type InlineImage = {
  param: string
  messageIndex: number
  imageIndex: number
  byteLength: number
  /** The first bytes, enough to tell a type by. */
  head: Uint8Array
}

/** What the usual type detectors read, rounded to whole groups of four characters. */
const headCharacters = 5464

const dataUrl = /^data:([^,]*),/i
const base64Marker = /;\s*base64\s*$/i
const canonical = /^[A-Za-z0-9+/]*={0,2}$/
const bareForm = /^[A-Za-z0-9+/]*$/
const foreign = /[\s_-]/g

/**
 * Standard base64 with padding, or undefined. Accepted beside it: the URL alphabet, embedded white space, missing
 * padding. Checked as text: decoding 10 MB to look at it would hold up every stream for 50 ms.
 */
const toStandardBase64 = (payload: string): string | undefined => {
  if (payload.length % 4 === 0 && canonical.test(payload)) return payload
  const bare = payload
    .replace(foreign, character => (character === '-' ? '+' : character === '_' ? '/' : ''))
    .replace(/={1,2}$/, '')
  if (bare.length % 4 === 1 || !bareForm.test(bare)) return undefined
  return bare.padEnd(Math.ceil(bare.length / 4) * 4, '=')
}

const decodedLength = (base64: string): number => {
  const padding = base64.endsWith('==') ? 2 : base64.endsWith('=') ? 1 : 0
  return (base64.length / 4) * 3 - padding
}

/** The place an image takes in the translated request. */
type Place = { param: string; messageIndex: number; imageIndex: number }
export type ReadImage = { base64: string; inline: InlineImage } | { ref: ImageRef }

/** A URL of an image part: decoded in form, or referred to. Throws a 400 when it is neither. */
export const readImageUrl = (url: string, place: Place): ReadImage => {
  const { param } = place
  const header = dataUrl.exec(url)
  if (header === null) {
    if (/^https?:\/\//i.test(url) && URL.canParse(url)) return { ref: { url, ...place } }
    throw invalid(
      param,
      `Invalid value for '${param}': expected a data URL or an http(s) URL.`,
      'invalid_image_url',
    )
  }
  const [prefix, mediaType = ''] = header
  const base64 = base64Marker.test(mediaType) ? toStandardBase64(url.slice(prefix.length)) : undefined
  if (base64 === undefined)
    throw invalid(
      param,
      `Invalid value for '${param}': expected a data URL of the form 'data:image/png;base64,…' with valid base64.`,
      'invalid_base64_image',
    )
  if (base64 === '')
    throw invalid(param, `Invalid value for '${param}': the image is empty.`, 'empty_image_file')
  const head = Uint8Array.from(atob(base64.slice(0, headCharacters)), character => character.charCodeAt(0))
  return { base64, inline: { ...place, byteLength: decodedLength(base64), head } }
}
