/** Numbers, times and sizes in words, in the browser's language where that matters. */

/** `4.6 ms`, `1.2 s`, `3 min 5 s`, `2 h 4 min`, `3 d 2 h`; seconds in. */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return '–'
  const s = Math.max(0, seconds)
  if (s < 0.001) return `${Math.round(s * 1e6)} µs`
  if (s < 1) return `${trimmed(s * 1000)} ms`
  if (s < 60) return `${trimmed(s)} s`
  if (s < 3600) return two(s, 60, 'min', 's')
  if (s < 86_400) return two(s / 60, 60, 'h', 'min')
  return two(s / 3600, 24, 'd', 'h')
}

function trimmed(value: number): string {
  return value < 10 ? value.toFixed(1).replace(/\.0$/, '') : String(Math.round(value))
}

function two(small: number, of: number, big: string, little: string): string {
  const whole = Math.round(small)
  const rest = whole % of
  return rest === 0 ? `${Math.floor(whole / of)} ${big}` : `${Math.floor(whole / of)} ${big} ${rest} ${little}`
}

/** `1.2 GB`; decimal, as disks are sold. */
export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–'
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let size = value
  let unit = 0
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000
    unit++
  }
  return `${unit === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`
}

const WHOLE = new Intl.NumberFormat('en', { maximumFractionDigits: 1 })
const SHORT = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 })

export const number = (value: number): string => (Math.abs(value) < 100_000 ? WHOLE.format(value) : SHORT.format(value))

/** `1 run`, `2 runs`. */
export const count = (n: number, one: string, many = `${one}s`): string => `${number(n)} ${n === 1 ? one : many}`

/** `just now`, `5 min ago`, `in 3 h`; Unix seconds in. */
export function relative(at: number, now: number): string {
  const seconds = at - now
  const far = Math.abs(seconds)
  if (far < 5) return 'just now'
  const text =
    far < 60 ? `${Math.round(far)} s`
    : far < 3600 ? `${Math.round(far / 60)} min`
    : far < 86_400 ? `${Math.round(far / 3600)} h`
    : far < 86_400 * 30 ? `${Math.round(far / 86_400)} d`
    : far < 86_400 * 365 ? `${Math.round(far / 86_400 / 30)} mo`
    : `${Math.round(far / 86_400 / 365)} y`
  return seconds < 0 ? `${text} ago` : `in ${text}`
}

const pad = (n: number, width = 2): string => String(n).padStart(width, '0')

/** `2026-11-21 14:05:09`, in the browser's time zone. */
export function moment(at: number, millis = false): string {
  const d = new Date(at * 1000)
  const day = `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}`
  return `${day} ${clock(at, millis)}`
}

/** `14:05:09`. */
export function clock(at: number, millis = false): string {
  const d = new Date(at * 1000)
  const text = `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`
  return millis ? `${text}.${pad(d.getMilliseconds(), 3)}` : text
}

/** A long id, as much of it as one can compare by eye. */
export const shortened = (id: string, ends = 6): string =>
  id.length <= ends * 2 + 1 ? id : `${id.slice(0, ends)}…${id.slice(-4)}`

/** The message of an error as the engine keeps it with runs and steps (`{id, message, …}` or text). */
export function errorText(error: unknown): string {
  if (error === null || error === undefined) return ''
  if (typeof error === 'string') return error
  if (error instanceof Error) return error.message
  const { message, id } = error as { message?: unknown; id?: unknown }
  return String(message ?? id ?? JSON.stringify(error))
}

const ADDRESS = /0x[0-9a-f]{40}/

/** `user:0x…` and a bare address by the person's name, `local:pi` as somebody at the box. */
export function actorName(actor: string, names: ReadonlyMap<string, string>): string {
  const address = ADDRESS.exec(actor)?.[0]
  if (address) return names.get(address) || shortened(address)
  const [kind, id] = actor.split(':')
  if (id === undefined) return actor
  return kind === 'local' ? `${id}, at the box` : kind === 'token' ? `token ${id}` : actor
}
