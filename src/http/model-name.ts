/** A model's name in a body of our own API: any of its spellings becomes the one that rows, prices and lists hold. */
import { z } from 'zod'
import { toCanonicalModel } from '../wire/model-name.ts'

export const modelName = z
  .string()
  .min(1)
  .max(512)
  .transform(toCanonicalModel)
  .refine(name => name !== '', 'it names no model')
