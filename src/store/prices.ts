/** Prices and their history, of which nothing is ever taken back. */
import { asc, desc, eq } from 'drizzle-orm'
import { atomically, type SyncDatabase } from './database.ts'
import { priceHistory, prices } from './schema.ts'
import type { Store } from './store.ts'

type PriceStore = Pick<Store, 'listPrices' | 'findPrice' | 'putPrice' | 'deletePrice' | 'priceHistory'>

export const createPriceStore = (db: SyncDatabase): PriceStore => {
  const recordPrice = (
    model: string,
    price: { inputPrice: number | null; outputPrice: number | null },
    changedBy: string,
    nowMs: number,
  ) =>
    db
      .insert(priceHistory)
      .values({ model, ...price, changedBy, changedAt: nowMs })
      .run()

  return {
    async listPrices() {
      return await db.select().from(prices).orderBy(asc(prices.model))
    },
    async findPrice(model) {
      return (await db.select().from(prices).where(eq(prices.model, model))).at(0)
    },
    async putPrice(model, price, changedBy, nowMs) {
      return atomically(db, () => {
        recordPrice(model, price, changedBy, nowMs)
        return db
          .insert(prices)
          .values({ model, ...price, createdAt: nowMs, updatedAt: nowMs })
          .onConflictDoUpdate({ target: prices.model, set: { ...price, updatedAt: nowMs } })
          .returning()
          .get()
      })
    },
    async deletePrice(model, changedBy, nowMs) {
      return atomically(db, () => {
        const gone = db.delete(prices).where(eq(prices.model, model)).returning().all()
        if (gone.length > 0) recordPrice(model, { inputPrice: null, outputPrice: null }, changedBy, nowMs)
        return gone.length > 0
      })
    },
    async priceHistory(model) {
      return await db
        .select()
        .from(priceHistory)
        .where(model === undefined ? undefined : eq(priceHistory.model, model))
        .orderBy(desc(priceHistory.id))
    },
  }
}
