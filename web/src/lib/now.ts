/** The time, ticking for all that shows an age; one clock for the whole page, and none while nobody looks. */

import { onScopeDispose, ref, type Ref } from 'vue'

const now = ref(Date.now() / 1000)
let users = 0
let timer: ReturnType<typeof setInterval> | undefined

/** Unix seconds, renewed every second as long as the caller's scope lives. */
export function useNow(): Readonly<Ref<number>> {
  if (users++ === 0) {
    now.value = Date.now() / 1000
    timer = setInterval(() => {
      if (document.visibilityState === 'visible') now.value = Date.now() / 1000
    }, 1000)
  }
  onScopeDispose(() => {
    if (--users === 0) clearInterval(timer)
  })
  return now
}
