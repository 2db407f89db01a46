/** What can be written at a place in a template or an expression: names, and what past data shows lies under them. */

export interface Known {
  /** The step's input in the run that is looked at, or undefined. */
  payload: unknown
  event: unknown
  /** Outputs by step id. */
  steps: Record<string, unknown>
  vars: Record<string, unknown>
  state: Record<string, unknown>
  secrets: readonly string[]
}

export const NOTHING_KNOWN: Known = { payload: undefined, event: undefined, steps: {}, vars: {}, state: {}, secrets: [] }

export interface Suggestion {
  text: string
  /** What it is, or what it was in the last run. */
  detail: string
}

const NAMES: Suggestion[] = [
  { text: 'payload', detail: 'what came in' },
  { text: 'steps', detail: 'what earlier steps gave' },
  { text: 'event', detail: 'what started the run' },
  { text: 'vars', detail: 'the workspace’s variables' },
  { text: 'state', detail: 'the flow’s durable values' },
  { text: 'secrets', detail: 'hidden wherever they are shown' },
  { text: 'now()', detail: 'this moment' },
  { text: 'run', detail: 'id, flow, attempt' },
]

const FILTERS: Suggestion[] = [
  'default', 'round', 'int', 'float', 'lower', 'upper', 'trim', 'replace', 'join', 'length', 'first', 'last', 'sort',
  'sum', 'min', 'max', 'unique', 'map', 'select', 'selectattr', 'to_json', 'from_json', 'time', 'timestamp',
  'b64encode', 'b64decode', 'sha256',
].map((text) => ({ text, detail: 'filter' }))

export interface Completion {
  /** Where the part that a suggestion replaces begins. */
  from: number
  suggestions: Suggestion[]
}

const PATH = /((?:[A-Za-z_]\w*)(?:\.\w*|\[\d+\])*)$/

/** Suggestions at the end of `text` up to the caret; null where nothing fits or no expression is being written. */
export function complete(text: string, expression: boolean, known: Known): Completion | null {
  const inner = expression ? text : insideBraces(text)
  if (inner === null || insideQuotes(inner)) return null
  const filter = /\|\s*(\w*)$/.exec(inner)
  if (filter) return offered(text, filter[1]!, FILTERS)
  const path = PATH.exec(inner)?.[1] ?? ''
  const dot = path.lastIndexOf('.')
  if (dot < 0) return path || !expression || !inner.trim() ? offered(text, path, NAMES) : null
  const value = valueAt(path.slice(0, dot), known)
  return offered(text, path.slice(dot + 1), membersOf(value, path.slice(0, dot), known))
}

/** What is written behind the last `{{` or `{%` that is still open, or null. */
function insideBraces(text: string): string | null {
  const open = Math.max(text.lastIndexOf('{{'), text.lastIndexOf('{%'))
  if (open < 0) return null
  const inner = text.slice(open + 2)
  return inner.includes('}}') || inner.includes('%}') ? null : inner
}

function insideQuotes(text: string): boolean {
  let quote = ''
  for (const char of text) {
    if (quote) quote = char === quote ? '' : quote
    else if (char === '"' || char === "'") quote = char
  }
  return quote !== ''
}

function offered(text: string, begun: string, all: readonly Suggestion[]): Completion | null {
  const wanted = begun.toLowerCase()
  const fit = all.filter((one) => one.text.toLowerCase().includes(wanted) && one.text !== begun)
  fit.sort((a, b) => Number(b.text.toLowerCase().startsWith(wanted)) - Number(a.text.toLowerCase().startsWith(wanted)))
  return fit.length ? { from: text.length - begun.length, suggestions: fit.slice(0, 50) } : null
}

function valueAt(path: string, known: Known): unknown {
  const [root, ...rest] = path.replace(/\[(\d+)\]/g, '.$1').split('.')
  let value: unknown = root === 'secrets' ? undefined : known[root as keyof Known]
  for (const key of rest) value = isRecord(value) ? value[key] : Array.isArray(value) ? value[Number(key)] : undefined
  return value
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function membersOf(value: unknown, path: string, known: Known): Suggestion[] {
  if (path === 'secrets') return known.secrets.map((text) => ({ text, detail: 'secret' }))
  if (path === 'run') return ['id', 'flow', 'attempt'].map((text) => ({ text, detail: '' }))
  if (!isRecord(value)) return []
  return Object.entries(value)
    .filter(([key]) => /^[A-Za-z_][\w-]*$/.test(key))
    .map(([text, item]) => ({ text, detail: shortly(item) }))
}

/** A value in a few characters. */
export function shortly(value: unknown, most = 60): string {
  if (value === undefined) return ''
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  return text.length > most ? `${text.slice(0, most - 1)}…` : text
}
