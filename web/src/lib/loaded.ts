/** One thing that is loaded, kept, and asked for again: the value, whether it comes, and why it did not. */

import { computed, ref, shallowRef, type ComputedRef, type Ref, type ShallowRef } from 'vue'
import { ApiError } from '@/api/client'

export interface Loaded<T> {
  value: ShallowRef<T | null>
  /** It is on its way and there is nothing to show yet. */
  loading: ComputedRef<boolean>
  busy: Ref<boolean>
  error: ShallowRef<ApiError | null>
  /** Ask (again). The old value stays until the new one is there; never rejects. */
  load: () => Promise<void>
}

export function useLoaded<T>(fetch: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const value = shallowRef<T | null>(null) as ShallowRef<T | null>
  const error = shallowRef<ApiError | null>(null)
  const busy = ref(false)
  let running: AbortController | null = null
  return {
    value,
    error,
    busy,
    loading: computed(() => busy.value && value.value === null),
    load: async () => {
      running?.abort()
      const mine = (running = new AbortController())
      busy.value = true
      try {
        const found = await fetch(mine.signal)
        if (mine.signal.aborted) return
        value.value = found
        error.value = null
      } catch (problem) {
        if (mine.signal.aborted) return
        if (!(problem instanceof ApiError)) throw problem
        error.value = problem
      } finally {
        if (running === mine) {
          running = null
          busy.value = false
        }
      }
    },
  }
}
