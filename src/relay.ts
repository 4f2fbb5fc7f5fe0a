/** All completions in flight: starts them, ends those of a deleted user, and lets the shutdown wait for them. */
import type { ApiError } from './errors.ts'
import { Flight, type FlightDeps, type Job, type Ticket } from './flight.ts'
import type { ModelLearnt } from './limits/learnt.ts'

export interface Relay {
  /**
   * Runs a job: a plain answer's JSON body, or a stream of SSE bytes (its status is then known, or eight seconds have
   * passed). The client's leaving, told by `signal`, stops Ollama at once; the row is closed all the same.
   * @throws ApiError
   */
  answer(
    job: Job,
    ticket: Ticket,
    learnt: ModelLearnt,
    signal: AbortSignal,
  ): Promise<string | ReadableStream<Uint8Array>>
  /** Ends every flight of a user (of all, without one) with this error as a stream's last chunk. */
  stop(error: ApiError, outcome: 'failed' | 'cancelled', userNumber?: number): Promise<void>
  /** Aborts with the user's `stop`, or with `signal`; for what is done for a request before its flight. */
  until(userNumber: number, signal: AbortSignal): { signal: AbortSignal; release: () => void }
  readonly inFlight: number
}

export const createRelay = (deps: Omit<FlightDeps, 'ended'>): Relay => {
  const flights = new Map<Flight, number>()
  const flightDeps: FlightDeps = { ...deps, ended: flight => void flights.delete(flight) }
  /** Users that are gone, with what to say: one of theirs may have been admitted and not started yet. */
  const gone = new Map<number, ApiError>()
  const preparing = new Map<AbortController, number>()

  return {
    async answer(job, ticket, learnt, signal) {
      const fault = gone.get(ticket.userNumber)
      if (fault !== undefined) throw fault
      ticket.taken = true
      const flight = new Flight(flightDeps, job, ticket, learnt, signal)
      flights.set(flight, ticket.userNumber)
      return job.stream ? flight.stream() : flight.collect()
    },
    async stop(error, outcome, userNumber) {
      if (userNumber !== undefined) gone.set(userNumber, error)
      for (const [controller, user] of preparing) {
        if (userNumber === undefined || user === userNumber) controller.abort(error)
      }
      const chosen = [...flights].filter(([, user]) => userNumber === undefined || user === userNumber)
      await Promise.all(chosen.map(([flight]) => flight.stop(error, outcome)))
    },
    until(userNumber, signal) {
      const controller = new AbortController()
      const fault = gone.get(userNumber)
      if (fault !== undefined) controller.abort(fault)
      preparing.set(controller, userNumber)
      return {
        signal: AbortSignal.any([signal, controller.signal]),
        release: () => void preparing.delete(controller),
      }
    },
    get inFlight() {
      return flights.size
    },
  }
}
