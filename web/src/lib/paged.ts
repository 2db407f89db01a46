/** A list that comes page by page (keyset paging): what a table with "load more" shows. */

import { computed, ref, shallowRef, type ComputedRef, type Ref, type ShallowRef } from 'vue'
import { ApiError, type Page } from '@/api/client'

export interface Paged<T, Q> {
  items: ShallowRef<T[]>
  /** The first page is on its way and there is nothing to show. */
  loading: ComputedRef<boolean>
  busy: Ref<boolean>
  error: ShallowRef<ApiError | null>
  /** There is more behind what is shown. */
  more: ComputedRef<boolean>
  /** Was anything loaded yet? */
  loaded: Ref<boolean>
  /** Ask anew, from the top. What is shown stays until the answer is there, unless the question changed. */
  load: (query?: Q) => Promise<void>
  /** The next page. */
  next: () => Promise<void>
  query: ShallowRef<Q>
}

/** `fetch` is asked with the query, the cursor, and a signal that ends it when the question has changed. */
export function usePaged<T, Q>(
  fetch: (query: Q, cursor: string, signal: AbortSignal) => Promise<Page<T>>,
  first: Q,
): Paged<T, Q> {
  const items = shallowRef<T[]>([])
  const error = shallowRef<ApiError | null>(null)
  const query = shallowRef(first) as ShallowRef<Q>
  const busy = ref(false)
  const loaded = ref(false)
  const cursor = ref('')
  let running: AbortController | null = null

  async function ask(from: string): Promise<void> {
    running?.abort()
    const mine = (running = new AbortController())
    busy.value = true
    try {
      const page = await fetch(query.value, from, mine.signal)
      if (mine.signal.aborted) return
      items.value = from ? [...items.value, ...page.items] : page.items
      cursor.value = page.next
      error.value = null
      loaded.value = true
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
  }

  return {
    items,
    busy,
    error,
    loaded,
    query,
    loading: computed(() => busy.value && items.value.length === 0),
    more: computed(() => cursor.value !== ''),
    load: async (changed?: Q) => {
      if (changed !== undefined && JSON.stringify(changed) !== JSON.stringify(query.value)) {
        query.value = changed
        items.value = []
        cursor.value = ''
        loaded.value = false
      }
      await ask('')
    },
    next: async () => {
      if (!busy.value && cursor.value) await ask(cursor.value)
    },
  }
}
