/** What happened in a run, as one says it. */

import { toneOf } from '@/lib/states'
import type { Moment, Phase } from './timeline'

const SAID: Record<Phase | 'accepted' | 'ended', string> = {
  accepted: 'was accepted',
  ended: 'is over',
  pending: 'is not its turn yet',
  running: 'begins',
  retrying: 'failed and waits for its next attempt',
  waiting: 'waits',
  unverified: 'was cut off in the middle',
  done: 'is done',
  kept: 'was taken over from the earlier run',
  failed: 'failed',
  caught: 'failed and went on by its error port',
  skipped: 'is skipped: no path leads there',
  stopped: 'was stopped',
}

/** The colour role of what a node is doing. */
export function phaseTone(phase: string): string {
  return phase === 'caught' ? 'failed' : toneOf(phase)
}

/** `Tell the market begins, attempt 2`. */
export function said(moment: Moment, nameOf: (node: string) => string): string {
  const who = moment.node ? nameOf(moment.node) : 'The run'
  const attempt = moment.attempt > 1 && moment.phase === 'running' ? `, attempt ${moment.attempt}` : ''
  return `${who} ${SAID[moment.phase]}${attempt}`
}

/** Times inside of a run: `+1.204 s`, so precise that what lies `apart` seconds from it reads otherwise. */
export function offset(seconds: number, apart: number): string {
  const digits = Math.max(0, Math.min(seconds < 1 ? 6 : 3, Math.ceil(-Math.log10(Math.max(apart, 1e-6)) - 1e-9)))
  if (seconds < 1 && digits > 0) return `+${(seconds * 1000).toFixed(Math.max(0, digits - 3))} ms`
  if (seconds < 100) return `+${seconds.toFixed(digits)} s`
  const whole = Math.floor(seconds)
  const pad = (value: number): string => String(value).padStart(2, '0')
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
  const part = digits ? (seconds - whole).toFixed(digits).slice(1) : ''
  return hours ? `+${hours}:${pad(minutes)}:${pad(rest)}${part}` : `+${minutes}:${pad(rest)}${part}`
}
