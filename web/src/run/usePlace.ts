/** Where one is in a run: the step, the view and the moment, kept in the address so that it can be sent to somebody. */

import { computed, type ComputedRef, type WritableComputedRef } from 'vue'
import { useRoute, useRouter } from 'vue-router'
import type { Timeline } from './timeline'

export interface Place {
  /** The step that is looked at. */
  chosen: WritableComputedRef<string | null>
  tab: WritableComputedRef<string>
  /** The number of the moment; null: the newest one, whichever that is. */
  position: WritableComputedRef<number | null>
}

const micro = (seconds: number): string => String(Math.round(seconds * 1e6))

export function usePlace(timeline: ComputedRef<Timeline | null>, tabs: ComputedRef<readonly { id: string }[]>): Place {
  const route = useRoute()
  const router = useRouter()

  function place(change: Record<string, string | undefined>): void {
    const query = { ...route.query, ...change }
    for (const name of Object.keys(query)) if (query[name] === undefined || query[name] === '') delete query[name]
    void router.replace({ query })
  }

  const chosen = computed({
    get: () => {
      const node = String(route.query.step ?? '')
      return timeline.value?.byNode.has(node) ? node : null
    },
    set: (node) => place({ step: node ?? undefined }),
  })
  const tab = computed({
    get: () => (tabs.value.some((one) => one.id === route.query.tab) ? String(route.query.tab) : 'time'),
    set: (to) => place({ tab: to === 'time' ? undefined : to }),
  })
  const position = computed({
    get: (): number | null => {
      const at = Number(route.query.at)
      if (!timeline.value || route.query.at === undefined || !Number.isFinite(at)) return null
      const index = timeline.value.momentAt(at / 1e6)
      const nth = Number(route.query.nth ?? 0)
      const first = timeline.value.momentAt(at / 1e6 - 2e-9) + 1
      return Math.min(index, Number.isFinite(nth) && nth > 0 ? first + nth - 1 : index)
    },
    set: (to) => {
      const line = timeline.value
      if (!line || to === null || (line.over && to >= line.moments.length - 1)) return place({ at: undefined, nth: undefined })
      const at = line.moments[to]!.at
      const first = line.momentAt(at - 2e-9) + (at > 0 ? 1 : 0)
      const isLast = line.momentAt(at) === to
      place({ at: micro(at), nth: isLast ? undefined : String(to - first + 1) })
    },
  })

  return { chosen, tab, position }
}
