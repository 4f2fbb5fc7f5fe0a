/** What travels with a request through the middleware. */
import type { Ticket } from '../flight.ts'
import type { Forecast } from '../limits/forecast.ts'
import type { Caller } from '../principals.ts'
import type { EarlyBody, Repeat } from './repeats.ts'

export type Ask = {
  forecast: Forecast
  model: string
  /** How to tell the same request again; undefined where it takes more than its body to say what it needs. */
  repeat?: Repeat
}

export type AppEnv = {
  Bindings: {
    /** Read at the door already; undefined where the app reads it itself. */
    earlyBody?: EarlyBody
  }
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
    ask: Ask
    ticket: Ticket
  }
}

/** What was read of the body before the app saw the request; Hono knows no bindings where it was given none. */
export const earlyBodyOf = ({ env }: { env: AppEnv['Bindings'] | undefined }): EarlyBody | undefined =>
  env?.earlyBody
