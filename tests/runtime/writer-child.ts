/** Opens the database given, then commits a request at a time and prints its number once it is durable. */
import { openDatabase } from '../../src/runtime/database.ts'
import { batch, closing, idAt, opening, T0 } from '../store/support.ts'

const [path = ''] = process.argv.slice(2)
try {
  const { commit } = openDatabase({ path, synchronous: 'normal', nowMs: T0 })
  for (let i = 0; ; i++) {
    const id = idAt(T0, i)
    commit(batch({ open: [opening({ id })] }))
    process.stdout.write(`open ${id}\n`)
    commit(batch({ close: [closing({ id, price: { input: 7, output: 3 } })] }))
    process.stdout.write(`closed ${id}\n`)
  }
} catch (error) {
  process.stdout.write(`${String(error)}\n`)
  process.exit(1)
}
