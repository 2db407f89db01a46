/** The audit log in a line: who it was, and what changed. */

import { shortened } from '@/lib/format'

const ADDRESS = /0x[0-9a-f]{40}/

/** `user:0x…` and a bare address by the person's name, `local:pi` as somebody at the box. */
export function actorName(actor: string, names: ReadonlyMap<string, string>): string {
  const address = ADDRESS.exec(actor)?.[0]
  if (address) return names.get(address) || shortened(address)
  const [kind, id] = actor.split(':')
  if (id === undefined) return actor
  return kind === 'local' ? `${id}, at the box` : kind === 'token' ? `token ${id}` : actor
}

/** What changed, as `name: value`. */
export function told(detail: unknown): string {
  if (typeof detail !== 'object' || detail === null) return detail === null || detail === undefined ? '' : String(detail)
  return Object.entries(detail)
    .filter(([, value]) => value !== null && value !== '')
    .map(([name, value]) => `${name.replace(/_/g, ' ')}: ${valueText(value)}`)
    .join(' · ')
}

function valueText(value: unknown): string {
  if (Array.isArray(value)) return value.map(valueText).join(', ')
  if (typeof value === 'object' && value !== null) {
    return Object.entries(value).map(([name, inner]) => `${name} = ${valueText(inner)}`).join(', ')
  }
  return String(value)
}
