/** Writes to the database given without rest, its log written back by the Worker, and says how many rows are durable. */
import { startCheckpoints } from '../../src/runtime/checkpoint.ts'
import { openDatabase } from '../../src/runtime/database.ts'
import { createLedger } from '../../src/store/ledger.ts'
import { closing, idAt, T0 } from '../store/support.ts'

const [path = ''] = process.argv.slice(2)
const database = openDatabase({ path, synchronous: 'normal', nowMs: T0 })
const { soon } = startCheckpoints(database)
const ledger = createLedger({ commit: database.commit, soon, later: () => {}, onFault: () => {} })
let rows = 0
const write = () =>
  Array.from({ length: 100 }, () => {
    rows += 1
    return ledger.close(closing({ id: idAt(T0 + rows), userNumber: (rows * 7919) % 1000 }))
  })
for (let last = write(); ; ) {
  const durable = rows
  const next = write()
  await Promise.all(last)
  process.stdout.write(`${durable}\n`)
  last = next
}
