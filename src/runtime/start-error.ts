/** Why the program cannot start, in one plain sentence that says what to do. Printed alone, without a stack. */
export class StartError extends Error {
  override readonly name = 'StartError'
}
