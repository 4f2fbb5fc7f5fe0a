/** What travels with a request through the middleware. */
import type { Ticket } from '../flight.ts'
import type { Forecast } from '../limits/forecast.ts'
import type { Caller } from '../principals.ts'
import type { Order } from './order.ts'

export type Ask = {
  forecast: Forecast
  model: string
}

/** A request whose body the door has read: it began there. */
export type Early = {
  id: number
  arrivedMs: number
  arrivedSteadyMs: number
  body: Uint8Array
}

export type AppEnv = {
  Bindings: { early?: Early }
  Variables: {
    /** Time-ordered; x-request-id, the completion's id and the ledger row are made from it. */
    id: number
    /** Epoch milliseconds. */
    arrivedMs: number
    /** The same instant by the clock that never goes back: durations are measured by it. */
    arrivedSteadyMs: number
    caller: Caller
    /** What the body of a metered request asks for. */
    order: Order
    /** Set by a metered route before `limit`: what it will reserve, for which canonical model. */
    ask: Ask
    ticket: Ticket
  }
}

/** What was read before the app saw the request; Hono knows no bindings where it was given none. */
export const earlyOf = ({ env }: { env: AppEnv['Bindings'] | undefined }): Early | undefined => env?.early
