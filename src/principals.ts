/**
 * Who a key acts for, by the key's SHA-256. Looked up once and kept until anything about keys changes; a revoked key
 * is refused from the next request on. Plain keys are never kept.
 */
import type { Limits } from './limits/admission.ts'
import type { Principal, Store } from './store/store.ts'

/** What all keys of a user share; alive as long as a request holds it, so that new limits reach running streams. */
export type Account = { readonly userId: string; readonly userNumber: number; limits: Limits }

export type Caller = {
  account: Account
  keyId: number
  models: ReadonlySet<string> | null
  expiresAt: number | null
  /** When the ledger was last told that the key is in use. */
  notedMs: number
}

export interface Principals {
  /** Undefined for an unknown, revoked or expired key. */
  find(key: string): Promise<Caller | undefined>
  /** The same at once, where the key was asked for lately; null where it must be looked up. */
  recall(key: string): Caller | undefined | null
  /** After a change to keys, models or users: the next request of every key is looked up anew. */
  forget(): void
  /** New limits, for callers at hand and streams in flight too. */
  setLimits(userNumber: number, limits: Limits): void
}

const CALLERS_MAX = 10_000
const STRANGERS_MAX = 10_000
/** `last_used_at` is true to the minute: a write per request would double the ledger's work. */
const NOTE_EVERY_MS = 60_000

export const createPrincipals = (deps: {
  store: Store
  sha256: (text: string) => string
  now: () => number
  noteKeyUse: (keyId: number, atMs: number) => void
}): Principals => {
  const callers = new Map<string, Caller>()
  /** Keys that act for nobody. One that is made later is new: nobody can have tried it before. */
  const strangers = new Set<string>()
  const accounts = new Map<number, WeakRef<Account>>()
  const lost = new FinalizationRegistry<number>(userNumber => {
    if (accounts.get(userNumber)?.deref() === undefined) accounts.delete(userNumber)
  })
  /** A look-up that began before a change must not be kept after it. */
  let generation = 0

  const accountOf = ({ userId, userNumber, limits }: Principal): Account => {
    const known = accounts.get(userNumber)?.deref()
    if (known !== undefined) return known
    const account = { userId, userNumber, limits }
    accounts.set(userNumber, new WeakRef(account))
    lost.register(account, userNumber)
    return account
  }

  const lookUp = async (hash: string): Promise<Caller | undefined> => {
    const began = generation
    const principal = await deps.store.findPrincipal(hash)
    // Something changed meanwhile: what was read may be of before.
    if (began !== generation) return lookUp(hash)
    if (principal === undefined) {
      if (strangers.size >= STRANGERS_MAX) strangers.clear()
      strangers.add(hash)
      return undefined
    }
    const { keyId, models, expiresAt } = principal
    const caller: Caller = {
      account: accountOf(principal),
      keyId,
      models: models === null ? null : new Set(models),
      expiresAt,
      notedMs: Number.NEGATIVE_INFINITY,
    }
    if (callers.size >= CALLERS_MAX) callers.clear()
    callers.set(hash, caller)
    return caller
  }

  /** The caller, unless its key has expired; tells the ledger now and then that the key is in use. */
  const inUse = (caller: Caller | undefined): Caller | undefined => {
    const nowMs = deps.now()
    if (caller === undefined || (caller.expiresAt !== null && caller.expiresAt <= nowMs)) return undefined
    if (nowMs - caller.notedMs >= NOTE_EVERY_MS) {
      caller.notedMs = nowMs
      deps.noteKeyUse(caller.keyId, nowMs)
    }
    return caller
  }

  return {
    async find(key) {
      const hash = deps.sha256(key)
      if (strangers.has(hash)) return undefined
      return inUse(callers.get(hash) ?? (await lookUp(hash)))
    },
    recall(key) {
      const hash = deps.sha256(key)
      if (strangers.has(hash)) return undefined
      const caller = callers.get(hash)
      return caller === undefined ? null : inUse(caller)
    },
    forget() {
      generation++
      callers.clear()
      strangers.clear()
    },
    setLimits(userNumber, limits) {
      generation++
      const account = accounts.get(userNumber)?.deref()
      if (account !== undefined) account.limits = limits
    },
  }
}
