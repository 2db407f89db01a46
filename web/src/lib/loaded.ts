/**
 * One thing that is loaded, kept, and asked for again: the value, whether it comes, and why it did not.
 *
 * What is told live while an answer is on its way may be newer than that answer: it is taken up again on top of it.
 */

import { computed, ref, shallowRef, type ComputedRef, type Ref, type ShallowRef } from 'vue'
import { ApiError } from '@/api/client'

export interface Loaded<T> {
  value: ShallowRef<T | null>
  /** It is on its way and there is nothing to show yet. */
  loading: ComputedRef<boolean>
  busy: Ref<boolean>
  error: ShallowRef<ApiError | null>
  /** Ask (again), whatever is on its way. The old value stays until the new one is there; never rejects. */
  load: () => Promise<void>
  /**
   * Something has changed: ask again, after what is on its way has come. However often this is called, answers get
   * through. Asks for nothing that was never asked for.
   */
  again: () => void
}

export interface Followed<T, E> extends Loaded<T> {
  /** News: into what is there, and into what is on its way. */
  take: (news: readonly E[]) => void
}

export function useLoaded<T>(fetch: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  return useFollowed<T, never>(fetch, (value) => value)
}

/**
 * Loaded, and kept up to date by what is told. `told` gives the value with the news in it, and must not mind news that
 * the value has already.
 */
export function useFollowed<T, E>(fetch: (signal: AbortSignal) => Promise<T>, told: (value: T, news: readonly E[]) => T): Followed<T, E> {
  const value = shallowRef<T | null>(null) as ShallowRef<T | null>
  const error = shallowRef<ApiError | null>(null)
  const busy = ref(false)
  let running: AbortController | null = null
  /** Told since the question was asked; and whether it has to be asked once more. */
  let meanwhile: E[] = []
  let changed = false
  let asked = false

  async function load(): Promise<void> {
    running?.abort()
    const mine = (running = new AbortController())
    meanwhile = []
    changed = false
    busy.value = asked = true
    try {
      const found = await fetch(mine.signal)
      if (mine.signal.aborted) return
      value.value = meanwhile.length > 0 ? told(found, meanwhile) : found
      error.value = null
    } catch (problem) {
      if (mine.signal.aborted) return
      if (!(problem instanceof ApiError)) throw problem
      error.value = problem
    } finally {
      if (running === mine) {
        running = null
        meanwhile = []
        busy.value = false
        if (changed) void load()
      }
    }
  }

  return {
    value,
    error,
    busy,
    loading: computed(() => busy.value && value.value === null),
    load,
    again: () => {
      if (running !== null) changed = true
      else if (asked) void load()
    },
    take: (news) => {
      if (running !== null) meanwhile.push(...news)
      if (value.value !== null) value.value = told(value.value, news)
    },
  }
}
