/**
 * One name for one model. Ollama takes many spellings (ollama-api.md §1.9); prices, allow-lists and the ledger need one,
 * or a second spelling would be a way around them.
 */

/** Any scheme is ignored by Ollama. Bounded, so that a long name is not scanned again at every step. */
const scheme = /^[a-z][a-z0-9+.-]{0,20}:\/\//
const defaultHost = 'registry.ollama.ai/'
const defaultNamespace = 'library/'
/** U+0085: Go's `strings.TrimSpace` takes it off a name, JavaScript's `trim` does not. */
const nextLine = '\u0085'
/** The default tag, and the mark that forbids Ollama to ask elsewhere. */
const endings = [':latest', ':local', nextLine]

/** Takes off one thing that does not tell models apart; each step costs the same however long the name is. */
const peel = (spelling: string): string => {
  const name = spelling.trim()
  const ending = endings.find(candidate => name.endsWith(candidate))
  if (ending !== undefined) return name.slice(0, -ending.length)
  for (const beginning of [nextLine, defaultHost])
    if (name.startsWith(beginning)) return name.slice(beginning.length)
  // The default namespace only right before the model: in `library/team/model` it is a host.
  if (name.startsWith(defaultNamespace) && !name.includes('/', defaultNamespace.length))
    return name.slice(defaultNamespace.length)
  const found = scheme.exec(name)
  return found === null ? name : name.slice(found[0].length)
}

/**
 * The canonical spelling: lower case, without scheme, `registry.ollama.ai/`, `library/`, `:latest`, `:local` and
 * `@digest`. A canonical name is its own canonical name; a name that Ollama would refuse gets some canonical form too.
 */
export const toCanonicalModel = (name: string): string => {
  const lower = name.toLowerCase()
  const digest = lower.indexOf('@')
  let canonical = digest === -1 ? lower : lower.slice(0, digest)
  for (;;) {
    const peeled = peel(canonical)
    if (peeled.length === canonical.length) return peeled
    canonical = peeled
  }
}

/**
 * True when Ollama would send the request to its cloud: a name or tag that ends in `:cloud` or `-cloud`, in any case
 * and whatever is written around it. The cloud spends the owner's account, so a doubtful name counts as one.
 */
export const isCloudModel = (name: string): boolean => /[:-][\s\u0085]*cloud$/.test(toCanonicalModel(name))
