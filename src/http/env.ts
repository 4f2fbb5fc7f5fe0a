/** What travels with a request through the middleware. */

import type { Ticket } from '../flight.ts'
import type { Demand } from '../limits/admission.ts'
import type { Caller } from '../principals.ts'

export type AppEnv = {
  Variables: {
    /** Time-ordered; x-request-id, the completion's id and the ledger row are made from it. */
    id: number
    /** Epoch milliseconds. */
    arrivedMs: number
    /** The same instant by the clock that never goes back: durations are measured by it. */
    arrivedSteadyMs: number
    caller: Caller
    /** The checked JSON body. */
    body: unknown
    /** Set by a metered route before `limit`: what it will reserve, for which canonical model. */
    ask: { demand: Demand; model: string }
    ticket: Ticket
  }
}
