/** How a trigger is, in one of four ways. */

import type { TriggerView } from '@/api/triggers'

export type TriggerState = 'good' | 'bad' | 'off' | 'unknown'

export function stateOf(trigger: TriggerView): TriggerState {
  if (!trigger.enabled) return 'off'
  if (trigger.ok === null) return 'unknown'
  return trigger.ok ? 'good' : 'bad'
}

const RANK: Record<TriggerState, number> = { bad: 0, unknown: 1, good: 2, off: 3 }

/** What needs somebody comes first, then what fires soonest. */
export function inOrder(triggers: readonly TriggerView[]): TriggerView[] {
  return [...triggers].sort(
    (a, b) =>
      RANK[stateOf(a)] - RANK[stateOf(b)]
      || (a.next[0] ?? 1e12) - (b.next[0] ?? 1e12) || a.flow.localeCompare(b.flow) || a.id.localeCompare(b.id),
  )
}
