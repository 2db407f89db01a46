/** The last values of a number that is looked at again and again, for a line. */

import { shallowRef, watch, type ShallowRef } from 'vue'

/** Values that are kept. */
const LONGEST = 60

export function useTrail<T>(source: () => T | null | undefined, pick: (found: T) => number | undefined): ShallowRef<number[]> {
  const trail = shallowRef<number[]>([])
  watch(source, (found) => {
    const value = found === null || found === undefined ? undefined : pick(found)
    if (value !== undefined) trail.value = [...trail.value.slice(1 - LONGEST), value]
  }, { immediate: true })
  return trail
}
