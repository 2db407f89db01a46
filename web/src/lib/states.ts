/** Which colour role a state of a run or a step has (`--<tone>`, `--<tone>-soft`, `--<tone>-mark`). */

const TONES: Record<string, string> = {
  done: 'succeeded',
  kept: 'succeeded',
  retrying: 'warning',
  unverified: 'warning',
  pending: 'queued',
  skipped: 'queued',
  stopped: 'cancelled',
}
const OWN = new Set(['succeeded', 'failed', 'running', 'waiting', 'queued', 'dead', 'cancelled', 'warning'])

export function toneOf(state: string): string {
  const tone = TONES[state] ?? state
  return OWN.has(tone) ? tone : 'queued'
}

/** Whether a run in this state goes on. */
export const isOpen = (state: string): boolean => state === 'queued' || state === 'running' || state === 'waiting'
