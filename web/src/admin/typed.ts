/** Values of variables as one types them: their kind, the text in the field, and what becomes of it. */

export type Kind = 'text' | 'number' | 'boolean' | 'json'

export const KINDS: readonly { value: Kind; label: string }[] = [
  { value: 'text', label: 'Text' },
  { value: 'number', label: 'Number' },
  { value: 'boolean', label: 'Yes or no' },
  { value: 'json', label: 'List or object (JSON)' },
]

export function kindOf(value: unknown): Kind {
  if (typeof value === 'string') return 'text'
  if (typeof value === 'number') return 'number'
  if (typeof value === 'boolean') return 'boolean'
  return 'json'
}

/** What stands in the field. */
export const textOf = (value: unknown): string => (typeof value === 'string' ? value : (JSON.stringify(value, null, 2) ?? ''))

/** The value of a text, or why it has none. */
export function valueOf(kind: Kind, text: string): { value: unknown; fault: string } {
  if (kind === 'text') return { value: text, fault: '' }
  if (kind === 'boolean') return { value: text === 'true', fault: '' }
  if (kind === 'number') {
    const number = Number(text)
    const good = text.trim() !== '' && Number.isFinite(number)
    return { value: number, fault: good ? '' : 'This is no number. It looks like 21.5' }
  }
  try {
    return { value: JSON.parse(text) as unknown, fault: '' }
  } catch (error) {
    return { value: null, fault: `This is no JSON: ${(error as Error).message}` }
  }
}

/** The same content as another kind, as far as it can be one. */
export function asKind(kind: Kind, text: string): string {
  if (kind === 'boolean') return text === 'true' ? 'true' : 'false'
  if (kind === 'number') return valueOf('number', text).fault ? '0' : text.trim()
  if (kind === 'json') return valueOf('json', text).fault ? JSON.stringify(text) : text
  return text
}

const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,63}$/

/** What is wrong with a name of a variable or secret. */
export function nameFault(name: string): string {
  if (name === '' || NAME.test(name)) return ''
  return 'Letters, digits and _ only, and no digit first: it is written in templates.'
}

/** A value in a line. */
export function oneLine(value: unknown, most = 120): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? '')
  const flat = text.replace(/\s+/g, ' ')
  return flat.length > most ? `${flat.slice(0, most - 1)}…` : flat
}
