/** Images of a request: URLs fetched through the vetted door, types told from the bytes, sizes bounded. */
import { invalid } from '../errors.ts'
import type { ImageRef, InlineImage } from '../wire/images.ts'
import type { OllamaMessage } from '../wire/ollama.ts'

export type ImageDeps = {
  /** Fetches a vetted http(s) URL; throws an ApiError naming `param`. */
  fetchImage: (url: string, signal: AbortSignal, param: string) => Promise<Uint8Array>
  /** The media type that the first bytes show, or undefined. */
  sniffImageType: (bytes: Uint8Array) => Promise<string | undefined>
  imageTypes: readonly string[]
  imageBytesMax: number
  /** What all fetched images of a request may have together. */
  bodyBytesMax: number
}

/** One request may name so many images by URL, and all of them together may take so long. */
const URLS_MAX = 64
const FETCH_ALL_MS = 60_000

export type RequestImages = { refs: readonly ImageRef[]; inline: readonly InlineImage[] }

export const createImageLoader = ({
  fetchImage,
  sniffImageType,
  imageTypes,
  imageBytesMax,
  bodyBytesMax,
}: ImageDeps) => {
  const checkType = async (head: Uint8Array, param: string) => {
    const type = await sniffImageType(head)
    if (type === undefined || !type.startsWith('image/')) {
      throw invalid(param, `Invalid value for '${param}': the data is not an image.`, 'invalid_image_format')
    }
    if (!imageTypes.includes(type)) {
      const accepted = imageTypes.join(', ')
      throw invalid(
        param,
        `Invalid value for '${param}': ${type} is not accepted here, only ${accepted}.`,
        'unsupported_image_media_type',
      )
    }
  }

  const checkSize = (byteLength: number, param: string) => {
    if (byteLength <= imageBytesMax) return
    const megabytes = Math.floor(imageBytesMax / 1024 / 1024)
    throw invalid(
      param,
      `Invalid value for '${param}': an image may have at most ${megabytes} MB.`,
      'image_too_large',
    )
  }

  /** @throws ApiError also when the time for all images of a request is up. */
  const fetchWithin = async (deadline: AbortSignal, signal: AbortSignal, url: string, param: string) => {
    try {
      return await fetchImage(url, deadline, param)
    } catch (error) {
      if (!deadline.aborted || signal.aborted) throw error
      throw invalid(
        param,
        `Invalid value for '${param}': the images could not be fetched in time.`,
        'failed_to_download_image',
      )
    }
  }

  return {
    /** Bytes of one image, checked; as the base64 that Ollama takes. */
    async toBase64(bytes: Uint8Array, param: string): Promise<string> {
      checkSize(bytes.length, param)
      await checkType(bytes, param)
      return bytes.toBase64()
    },
    /** Checks what came inline, fetches what came as a URL (the same URL once) and puts it into the messages. */
    async load(images: RequestImages, messages: OllamaMessage[], signal: AbortSignal): Promise<void> {
      for (const { head, byteLength, param } of images.inline) {
        checkSize(byteLength, param)
        await checkType(head, param)
      }
      const fetched = new Map<string, string>()
      let fetchedBytes = 0
      const deadline = AbortSignal.any([signal, AbortSignal.timeout(FETCH_ALL_MS)])
      for (const { url, param, messageIndex, imageIndex } of images.refs) {
        let base64 = fetched.get(url)
        if (base64 === undefined) {
          if (fetched.size >= URLS_MAX) {
            throw invalid(
              param,
              `Invalid value for '${param}': a request may name at most ${URLS_MAX} images by URL.`,
            )
          }
          const bytes = await fetchWithin(deadline, signal, url, param)
          fetchedBytes += bytes.length
          // Together they may be as large as a request that carries its images itself.
          if (fetchedBytes > bodyBytesMax) {
            throw invalid(
              param,
              `Invalid value for '${param}': the images of this request are too large together.`,
              'image_too_large',
            )
          }
          base64 = await this.toBase64(bytes, param)
          fetched.set(url, base64)
        }
        const target = messages[messageIndex]?.images
        if (target !== undefined) target[imageIndex] = base64
      }
    },
  }
}
export type ImageLoader = ReturnType<typeof createImageLoader>
