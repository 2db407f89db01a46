/** The engine's settings as a form: in groups, what was changed of them, and what the engine says of a value. */

import type { ApiError, Problem } from '@/api/client'
import type { Setting } from '@/api/settings'
import { bytes } from '@/lib/format'
import type { JsonSchema } from '@/lib/schema'

export interface Group {
  name: string
  settings: Setting[]
}

const OTHERS = 'Others'

/** In the order in which the engine names them. */
export function groupsOf(settings: readonly Setting[], schemas: Readonly<Record<string, JsonSchema>>): Group[] {
  const found = new Map<string, Setting[]>()
  for (const one of settings) {
    const group = String(schemas[one.name]?.['x-flowork-group'] ?? OTHERS)
    found.set(group, [...(found.get(group) ?? []), one])
  }
  return [...found].map(([name, list]) => ({ name, settings: list }))
}

/** What is to be set, and what goes back to its default; `typed` holds `undefined` for the latter. */
export function changesOf(settings: readonly Setting[], typed: Readonly<Record<string, unknown>>): { set: Record<string, unknown>; reset: string[] } {
  const set: Record<string, unknown> = {}
  const reset: string[] = []
  for (const { name, value, source } of settings) {
    if (!(name in typed)) continue
    const to = typed[name]
    if (to === undefined) {
      if (source === 'database') reset.push(name)
    } else if (source !== 'database' || JSON.stringify(to) !== JSON.stringify(value)) set[name] = to
  }
  return { set, reset }
}

/** A refusal names one setting at its beginning: `keep_days: must be …`. */
export function problemsOf(error: ApiError): Problem[] {
  if (error.problems.length) return error.problems.map(({ path, message }) => ({ path: path.replace(/^values\./, ''), message }))
  const found = /^(\w+): (.*)$/s.exec(error.message)
  return found ? [{ path: found[1]!, message: found[2]! }] : []
}

/** A value in words, with its unit. */
export function worded(value: unknown, unit: string): string {
  if (Array.isArray(value)) return value.length ? value.join(', ') : 'none'
  if (value === '' || value === null || value === undefined) return 'empty'
  if (unit === 'bytes' && typeof value === 'number') return bytes(value)
  return unit ? `${String(value)} ${unit}` : String(value)
}
