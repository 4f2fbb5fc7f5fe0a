/** What is known of models on our side: ledger numbers, prices, which ones a caller may use. */
import { ApiError } from './errors.ts'
import type { Caller } from './principals.ts'
import type { TokenPrice } from './store/ledger.ts'
import type { Store } from './store/store.ts'
import { isCloudModel, toCanonicalModel } from './wire/model-name.ts'

const NUMBERS_MAX = 10_000
const SPELLINGS_MAX = 1000
const FREE: TokenPrice = { input: 0, output: 0 }

export const createModels = (deps: { store: Store; allowCloudModels: boolean }) => {
  const numbers = new Map<string, number>()
  const prices = new Map<string, TokenPrice>()

  const spellings = new Map<string, { canonical: string; isCloud: boolean }>()

  /** What a client wrote for a model. Each request asks, and few are written: read once. */
  const spellingOf = (model: string) => {
    const known = spellings.get(model)
    if (known !== undefined) return known
    const canonical = toCanonicalModel(model)
    const spelling = { canonical, isCloud: isCloudModel(canonical) }
    if (spellings.size >= SPELLINGS_MAX) spellings.clear()
    spellings.set(model, spelling)
    return spelling
  }

  const isListed = (caller: Caller, canonical: string) =>
    caller.models === null || caller.models.has(canonical)

  return {
    /** Prices change through the admin API only, so they are read once and kept current here. */
    async loadPrices() {
      for (const { model, inputPrice, outputPrice } of await deps.store.listPrices()) {
        prices.set(model, { input: inputPrice, output: outputPrice })
      }
    },
    setPrice(canonical: string, price: TokenPrice | undefined) {
      if (price === undefined) prices.delete(canonical)
      else prices.set(canonical, price)
    },
    priceOf: (canonical: string): TokenPrice => prices.get(canonical) ?? FREE,
    /** The number that ledger rows hold for a canonical name. */
    async numberOf(canonical: string): Promise<number> {
      const known = numbers.get(canonical)
      if (known !== undefined) return known
      const number = await deps.store.modelId(canonical)
      if (numbers.size >= NUMBERS_MAX) numbers.clear()
      numbers.set(canonical, number)
      return number
    },
    mayUse: (caller: Caller, canonical: string) =>
      isListed(caller, canonical) && (deps.allowCloudModels || !isCloudModel(canonical)),
    /** The canonical name of a model the caller may use. @throws ApiError 403 `model_not_allowed` */
    admit(caller: Caller, model: string): string {
      const { canonical, isCloud } = spellingOf(model)
      if (isCloud && !deps.allowCloudModels) {
        throw new ApiError('model_not_allowed', 'Cloud models are not available through this server.', {
          param: 'model',
        })
      }
      if (!isListed(caller, canonical)) {
        throw new ApiError('model_not_allowed', 'This API key may not use that model.', { param: 'model' })
      }
      return canonical
    },
  }
}
export type Models = ReturnType<typeof createModels>
