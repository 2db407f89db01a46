/** Which runs are listed: from the page's address to the engine's question, and whether a run that moves belongs there. */

import type { RunState } from '@/api/flows'
import type { LiveRun } from '@/api/live'
import type { LetterState, RunFilter } from '@/api/runs'

export interface Wanted {
  flow: readonly string[]
  state: readonly RunState[]
  trigger: string
  text: string
  letter: Exclude<LetterState, 'none'> | ''
  children: boolean
  /** The newest part of time, such as `1h`; then `since` and `until` (Unix seconds) count for nothing. */
  last: string
  since: number | null
  until: number | null
}

export const STATES: readonly RunState[] = ['queued', 'running', 'waiting', 'succeeded', 'failed', 'dead', 'cancelled', 'skipped']
export const UNDER_WAY: ReadonlySet<RunState> = new Set(['queued', 'running', 'waiting'])
export const LASTS: Readonly<Record<string, { seconds: number; title: string }>> = {
  '15m': { seconds: 900, title: 'Last 15 minutes' },
  '1h': { seconds: 3600, title: 'Last hour' },
  '24h': { seconds: 86_400, title: 'Last 24 hours' },
  '7d': { seconds: 604_800, title: 'Last 7 days' },
  '30d': { seconds: 2_592_000, title: 'Last 30 days' },
}
const LETTERS: readonly string[] = ['open', 'replayed', 'discarded']

export const EVERYTHING: Wanted = {
  flow: [], state: [], trigger: '', text: '', letter: '', children: false, last: '', since: null, until: null,
}

type AddressValue = string | null | undefined | readonly (string | null)[]
export type Address = Record<string, string | string[]>

const many = (value: AddressValue): string[] =>
  (Array.isArray(value) ? (value as readonly (string | null)[]) : [value as string | null | undefined]).filter((one): one is string => !!one)
const one = (value: AddressValue): string => many(value)[0] ?? ''

/** What an address asks for; what it says that makes no sense is passed over. */
export function wantedOf(query: Readonly<Record<string, AddressValue>>): Wanted {
  const letter = one(query.letter)
  const last = one(query.last)
  return {
    flow: many(query.flow),
    state: many(query.state).filter((state): state is RunState => (STATES as readonly string[]).includes(state)),
    trigger: one(query.trigger),
    text: one(query.text),
    letter: LETTERS.includes(letter) ? (letter as Wanted['letter']) : '',
    children: one(query.children) === '1',
    last: Object.hasOwn(LASTS, last) ? last : '',
    since: timeOf(one(query.since)),
    until: timeOf(one(query.until)),
  }
}

/** The address of a question; the plain list has none. */
export function addressOf(wanted: Wanted): Address {
  const found: Address = {}
  if (wanted.flow.length) found.flow = [...wanted.flow]
  if (wanted.state.length) found.state = [...wanted.state]
  for (const name of ['trigger', 'text', 'letter', 'last'] as const) if (wanted[name]) found[name] = wanted[name]
  if (wanted.children) found.children = '1'
  if (!wanted.last) {
    if (wanted.since !== null) found.since = localTime(wanted.since)
    if (wanted.until !== null) found.until = localTime(wanted.until)
  }
  return found
}

/** `2026-11-21T14:05` of this browser's time zone, as its own field for times has it. */
export function localTime(at: number): string {
  const date = new Date(at * 1000)
  const pad = (value: number): string => String(value).padStart(2, '0')
  const seconds = date.getSeconds() ? `:${pad(date.getSeconds())}` : ''
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}T${pad(date.getHours())}:${pad(date.getMinutes())}${seconds}`
}

export function timeOf(text: string): number | null {
  if (!text) return null
  const time = new Date(text).getTime() / 1000
  return Number.isFinite(time) && time >= 0 ? time : null
}

/** The question that the engine is asked. */
export function questionOf(wanted: Wanted, workspace: string, now: number): RunFilter {
  const found: RunFilter = { workspace }
  if (wanted.flow.length) found.flow = wanted.flow
  if (wanted.state.length) found.state = wanted.state
  if (wanted.trigger) found.trigger = wanted.trigger
  if (wanted.text) found.text = wanted.text
  if (wanted.letter) found.letter = wanted.letter
  if (wanted.children) found.children = true
  const last = LASTS[wanted.last]
  if (last) found.since = now - last.seconds
  else {
    if (wanted.since !== null) found.since = wanted.since
    if (wanted.until !== null) found.until = wanted.until
  }
  return found
}

export function isPlain(wanted: Wanted): boolean {
  return Object.keys(addressOf(wanted)).length === 0
}

/** Whether a run that moved belongs into the list. With a text only the engine can say: `unknown`. */
export function belongs(run: LiveRun, wanted: Wanted): boolean | 'unknown' {
  if (!wanted.children && run.parent) return false
  if (wanted.flow.length && !wanted.flow.includes(run.flow)) return false
  if (wanted.state.length && !wanted.state.includes(run.state as RunState)) return false
  if (wanted.trigger && run.trigger !== wanted.trigger) return false
  if (wanted.letter && run.letter !== wanted.letter) return false
  if (!wanted.last) {
    if (wanted.since !== null && run.accepted < wanted.since) return false
    if (wanted.until !== null && run.accepted >= wanted.until) return false
  }
  return wanted.text ? 'unknown' : true
}
