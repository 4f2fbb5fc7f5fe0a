import { fileTypeFromBuffer } from 'file-type/core'

/** Formats announce themselves at their beginning; looking no further bounds the work, whatever a client sends. */
const PREFIX_BYTES = 4100

/**
 * The MIME type that the bytes themselves show, e.g. `image/png`, whatever a header or a data URL claims; undefined
 * when no known type fits. Not only images: the caller compares with what it allows.
 */
export const sniffImageType = async (bytes: Uint8Array): Promise<string | undefined> => {
  try {
    return (await fileTypeFromBuffer(bytes.subarray(0, PREFIX_BYTES)))?.mime
  } catch {
    // A parser inside the library that stumbles over garbage has answered: it is none of its types.
    return undefined
  }
}
