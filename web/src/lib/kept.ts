/** Small things that this browser keeps (theme, sidebar, columns). A browser that refuses forgets them. */

import { ref, watch, type Ref } from 'vue'

const PREFIX = 'flowork.'

export function readKept<T>(name: string, otherwise: T): T {
  try {
    const text = localStorage.getItem(PREFIX + name)
    return text === null ? otherwise : (JSON.parse(text) as T)
  } catch {
    return otherwise
  }
}

export function keep(name: string, value: unknown): void {
  try {
    if (value === undefined) localStorage.removeItem(PREFIX + name)
    else localStorage.setItem(PREFIX + name, JSON.stringify(value))
  } catch {
    // Full, or switched off: it lasts as long as the page.
  }
}

/** A ref that survives a reload. */
export function useKept<T>(name: string, otherwise: T): Ref<T> {
  const value = ref(readKept(name, otherwise)) as Ref<T>
  watch(value, (now) => keep(name, now), { deep: true })
  return value
}
