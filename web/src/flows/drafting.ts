/** Having a model draft a flow: the stages as they come, the flow, or why there is none. Leaving ends the work. */

import { onScopeDispose, ref, shallowRef, type Ref, type ShallowRef } from 'vue'
import { ApiError, newKey } from '@/api/client'
import type { DryStep } from '@/api/drafts'
import { describeFlow, type Draft, type Wish } from '@/api/workshop'
import { useLive } from '@/stores/live'

/** How a step of a dry run came out. */
export const OUTCOMES: Record<DryStep['outcome'], string> = { done: 'done', failed: 'failed', waits: 'would wait', starts: 'would start runs', held: 'would do it' }

export interface Drafting {
  stages: Ref<string[]>
  busy: Ref<boolean>
  error: ShallowRef<ApiError | null>
  /** The flow; null if there is none, or it was given up. */
  draft: (wish: Omit<Wish, 'id'>, workspace: string) => Promise<Draft | null>
  stop: () => void
}

export function useDrafting(): Drafting {
  const stages = ref<string[]>([])
  const busy = ref(false)
  const error = shallowRef<ApiError | null>(null)
  let mine = ''
  let asking: AbortController | null = null

  useLive().watchTexts((texts) => {
    for (const { draft, text } of texts) if (busy.value && draft === mine) stages.value = [...stages.value, text]
  })

  async function draft(wish: Omit<Wish, 'id'>, workspace: string): Promise<Draft | null> {
    stop()
    const now = (asking = new AbortController())
    mine = newKey()
    stages.value = []
    error.value = null
    busy.value = true
    try {
      return await describeFlow({ ...wish, id: mine }, workspace, now.signal)
    } catch (problem) {
      if (now.signal.aborted) return null
      if (!(problem instanceof ApiError)) throw problem
      error.value = problem
      return null
    } finally {
      if (asking === now) busy.value = false
    }
  }

  function stop(): void {
    asking?.abort()
    busy.value = false
  }

  onScopeDispose(stop)
  return { stages, busy, error, draft, stop }
}
