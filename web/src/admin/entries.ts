/** The audit log in a line: what changed. */

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
