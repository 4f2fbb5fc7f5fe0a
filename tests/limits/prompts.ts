/** Mixed traffic for the estimators: requests in English, German, Chinese, code and JSON, and tokenizers to count them. */
import type { OllamaChatRequest, OllamaMessage } from '../../src/wire/ollama.ts'

const english =
  `The committee will meet again on Thursday to discuss the remaining questions about the budget.
Could you please summarise the following report in three short paragraphs and list the open risks?
When the river rose during the night, several families had to leave their houses and sleep in the school.
A good explanation starts with an example that the reader already knows, and only then names the principle.
I have been trying to understand why the second measurement differs so strongly from the first one.
Photosynthesis converts light energy into chemical energy, which is stored in carbohydrate molecules.
She opened the window, looked at the empty street and decided that the letter could wait until tomorrow.
What is the difference between a mutex and a semaphore, and when would you use either of them?
Please write a friendly reply to this customer, apologise for the delay and offer a refund of $25.
Most of the misunderstandings in distributed systems come from assuming that clocks agree.
Don't repeat yourself is good advice until it isn't; some duplication is cheaper than the wrong abstraction.
The museum was founded in 1887 and moved to its present building, a former railway station, in 1923.`.split(
    '\n',
  )

const german =
  `Der Ausschuss trifft sich am Donnerstag erneut, um die offenen Fragen zum Haushalt zu besprechen.
Könntest du bitte den folgenden Bericht in drei kurzen Absätzen zusammenfassen und die Risiken auflisten?
Als der Fluss in der Nacht über die Ufer trat, mussten mehrere Familien ihre Häuser verlassen.
Eine gute Erklärung beginnt mit einem Beispiel, das die Leserinnen und Leser bereits kennen.
Die Geschwindigkeitsbegrenzung auf der Umgehungsstraße wurde wegen Bauarbeiten vorübergehend verschärft.
Ich verstehe nicht, weshalb sich die zweite Messung so deutlich von der ersten unterscheidet.
Bitte schreibe eine freundliche Antwort, entschuldige dich für die Verspätung und biete eine Rückerstattung an.
Der Versicherungsnehmer ist verpflichtet, Änderungen seiner Anschrift unverzüglich schriftlich mitzuteilen.
Größere Überschüsse wären möglich, müssten aber zunächst gegen die Verbindlichkeiten aufgerechnet werden.
Das Museum wurde 1887 gegründet und zog 1923 in sein heutiges Gebäude, einen ehemaligen Bahnhof.`.split('\n')

const chinese = `委员会将于星期四再次开会，讨论有关预算的其余问题。
请把下面的报告概括成三个简短的段落，并列出尚未解决的风险。
河水在夜里上涨，几户人家不得不离开自己的房子，到学校里过夜。
好的解释从读者已经知道的例子开始，然后才说出原理。
光合作用把光能转化为化学能，储存在碳水化合物分子中。
她打开窗户，看了看空荡荡的街道，决定明天再寄那封信。
互斥锁和信号量有什么区别？分别在什么情况下使用？
分布式系统中的大多数误解，都来自于假设各个时钟是一致的。
博物馆建于1887年，1923年迁入现在的建筑，那里以前是火车站。`.split('\n')

const code =
  `export const fitsAt = ({ entries, limit, windowMs, nowMs }: WindowView, cost: number): number | undefined => {
  let excess = entries.reduce((sum, entry) => sum + entry.cost, cost) - limit
  if (excess <= 0) return nowMs
  for (const entry of entries) if ((excess -= entry.cost) <= 0) return entry.atMs + windowMs
}
def merge_sorted(left: list[int], right: list[int]) -> list[int]:
    result, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            result.append(left[i]); i += 1
        else:
            result.append(right[j]); j += 1
    return result + left[i:] + right[j:]
SELECT user_id, COUNT(*) AS requests, SUM(prompt_tokens + completion_tokens) AS tokens
FROM usage WHERE created_at >= ?1 GROUP BY user_id HAVING tokens > 1000 ORDER BY tokens DESC LIMIT 50;
func (s *Server) handleChat(w http.ResponseWriter, r *http.Request) error {
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil { return fmt.Errorf("decode: %w", err) }
#include <stdio.h>
int main(int argc, char **argv) { for (int i = 0; i < argc; ++i) printf("%d: %s\\n", i, argv[i]); return 0; }
    public static final Map<String, List<Integer>> EMPTY_INDEX = Collections.unmodifiableMap(new HashMap<>());`.split(
    '\n',
  )

/** Numbers in [0, 1) from a seed: the same traffic every time. */
export const createChance = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}
type Chance = () => number

const pick = <T>(chance: Chance, list: readonly T[]): T => list[Math.floor(chance() * list.length)] as T

const record = (chance: Chance, index: number) => ({
  id: `ord_${Math.floor(chance() * 1e9).toString(36)}`,
  index,
  customer: {
    name: pick(chance, ['Ada', 'Grace', 'Linus', 'Margaret']),
    active: chance() < 0.5,
    email: null,
  },
  total_cents: Math.floor(chance() * 100_000),
  created_at: `2026-0${1 + Math.floor(chance() * 9)}-1${Math.floor(chance() * 10)}T08:34:43.941Z`,
  tags: ['priority', 'gift', 'export'].filter(() => chance() < 0.4),
})

const lines = (chance: Chance, list: readonly string[], count: number, join: string) =>
  Array.from({ length: count }, () => pick(chance, list)).join(join)

export const kindsOfText = ['english', 'german', 'chinese', 'code', 'json'] as const
export type KindOfText = (typeof kindsOfText)[number]

export const textOf = (kind: KindOfText, chance: Chance, count: number): string => {
  if (kind === 'english') return lines(chance, english, count, ' ')
  if (kind === 'german') return lines(chance, german, count, ' ')
  if (kind === 'chinese') return lines(chance, chinese, count, '')
  if (kind === 'code') return lines(chance, code, count, '\n')
  const records = Array.from({ length: Math.ceil(count / 2) }, (_, index) => record(chance, index))
  return chance() < 0.5 ? JSON.stringify(records) : JSON.stringify(records, null, 2)
}

const tool = (name: string) => ({
  type: 'function',
  function: {
    name,
    description: `Looks up the ${name.replaceAll('_', ' ')} for a place and returns it as text.`,
    parameters: {
      type: 'object',
      properties: {
        city: { type: 'string', description: 'The name of the city.' },
        days: { type: 'integer' },
      },
      required: ['city'],
    },
  },
})

/** A chat of one to seven messages: mostly one kind of text, sometimes a question in English about it; some tools. */
export const createTraffic = (seed: number) => {
  const chance = createChance(seed)
  return (): OllamaChatRequest => {
    const messages: OllamaMessage[] = []
    if (chance() < 0.4)
      messages.push({ role: 'system', content: textOf('english', chance, 1 + Math.floor(chance() * 4)) })
    const kind = pick(chance, kindsOfText)
    const turns = chance() < 0.5 ? 1 : 1 + 2 * Math.floor(chance() * 3)
    for (let turn = 0; turn < turns; turn++) {
      const size = 1 + Math.floor(40 * chance() ** 3)
      const question = chance() < 0.3 ? `${textOf('english', chance, 1)}\n\n` : ''
      messages.push({
        role: turn % 2 === 0 ? 'user' : 'assistant',
        content: question + textOf(kind, chance, size),
      })
    }
    const tools = chance() < 0.15 ? { tools: [tool('weather_forecast'), tool('population')] } : {}
    return { model: 'any', stream: true, messages, ...tools }
  }
}

/** How a template writes the request down: markers and a beginning of their own tokens, then the texts. */
export const countWith =
  (tokensOf: (text: string) => number, template = { base: 9, message: 5 }) =>
  (request: OllamaChatRequest): number => {
    let tokens = template.base
    for (const { role, content } of request.messages)
      tokens += template.message + tokensOf(role) + tokensOf(content)
    if (request.tools !== undefined) tokens += tokensOf(JSON.stringify(request.tools))
    return tokens
  }

const encoder = new TextEncoder()
const pieces = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu

/** One token a byte, as the scripted model of the recordings. */
export const byteTokens = (text: string): number => encoder.encode(text).length

/** One token a Chinese character or mark, one for every four letters of other words: a vocabulary of characters. */
export const characterTokens = (text: string): number => {
  let tokens = 0
  for (const [piece] of text.matchAll(pieces)) {
    const letters = [...piece.trim()]
    const wide = letters.filter(letter => letter > '\u2e80').length
    tokens += wide + Math.ceil((letters.length - wide) / 4)
  }
  return tokens
}

/** A SentencePiece vocabulary of old: short pieces, single digits, bytes for what it does not know. */
export const smallVocabularyTokens = (text: string): number => {
  let tokens = 0
  for (const [piece] of text.matchAll(pieces)) {
    const trimmed = piece.trim()
    if (trimmed === '') tokens += piece.length
    else if (/^\p{N}/u.test(trimmed)) tokens += 1 + trimmed.length
    else if (/^[a-z]+$/i.test(trimmed)) tokens += Math.ceil(trimmed.length / 3.6)
    else
      for (const letter of trimmed)
        tokens += letter < '\u0080' ? 0.6 : letter < '\u0250' ? 1 : letter < '\u3100' ? 2 : 1.7
  }
  return Math.ceil(tokens)
}

/**
 * A real byte-pair encoding: merges learnt from the corpora above, with English and code weighted as on the web.
 * Words never cross the borders of GPT's splitting pattern.
 */
export const trainBytePairs = (merges: number) => {
  const words = new Map<string, number>()
  const take = (text: string, weight: number) => {
    for (const [piece] of text.matchAll(pieces)) words.set(piece, (words.get(piece) ?? 0) + weight)
  }
  for (const line of english) take(` ${line}`, 6)
  for (const line of code) take(line, 3)
  for (const line of german) take(line, 1)
  for (const line of chinese) take(line, 1)
  const spell = (word: string) => Array.from(encoder.encode(word), byte => String.fromCharCode(byte))
  const entries = Array.from(words, ([word, weight]) => ({ parts: spell(word), weight }))
  const rank = new Map<string, number>()
  const merge = (parts: string[], pair: string): string[] => {
    const merged: string[] = []
    for (let i = 0; i < parts.length; i++) {
      if (i + 1 < parts.length && `${parts[i]}\u0000${parts[i + 1]}` === pair)
        merged.push(`${parts[i]}${parts[++i]}`)
      else merged.push(parts[i] as string)
    }
    return merged
  }
  for (let step = 0; step < merges; step++) {
    const counts = new Map<string, number>()
    for (const { parts, weight } of entries) {
      for (let i = 0; i + 1 < parts.length; i++) {
        const pair = `${parts[i]}\u0000${parts[i + 1]}`
        counts.set(pair, (counts.get(pair) ?? 0) + weight)
      }
    }
    let best = ''
    let most = 1
    for (const [pair, count] of counts) if (count > most) [best, most] = [pair, count]
    if (best === '') break
    rank.set(best, step)
    for (const entry of entries) if (entry.parts.length > 1) entry.parts = merge(entry.parts, best)
  }
  const known = new Map<string, number>()
  const tokensOfWord = (word: string): number => {
    let parts = spell(word)
    for (;;) {
      let best: string | undefined
      for (let i = 0; i + 1 < parts.length; i++) {
        const pair = `${parts[i]}\u0000${parts[i + 1]}`
        if ((rank.get(pair) ?? Infinity) < (best === undefined ? Infinity : (rank.get(best) ?? Infinity)))
          best = pair
      }
      if (best === undefined) return parts.length
      parts = merge(parts, best)
    }
  }
  return (text: string): number => {
    let tokens = 0
    for (const [piece] of text.matchAll(pieces)) {
      const count = known.get(piece) ?? tokensOfWord(piece)
      known.set(piece, count)
      tokens += count
    }
    return tokens
  }
}
