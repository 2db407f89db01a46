/** What the steps of a run show while they work, such as a model's words: gathered from live events, never loaded. */

import { shallowRef, watch, type Ref, type ShallowRef } from 'vue'
import type { LiveText } from '@/api/live'
import { useLive } from '@/stores/live'

export interface Words {
  attempt: number
  /** Characters before `text` that did not come here. */
  missed: number
  text: string
}

/** Take an event up. What begins at 0, or another attempt, begins anew; a gap keeps only what stands behind it. */
export function heard(words: Words | undefined, event: LiveText): Words {
  const { attempt = 1, from = 0, text } = event
  if (from === 0 || words === undefined || words.attempt !== attempt) return { attempt, missed: from, text }
  const end = words.missed + words.text.length
  if (from > end) return { attempt, missed: from, text }
  return { ...words, text: words.text.slice(0, from - words.missed) + text }
}

/** By node; for the run that `id` names. */
export function useShown(id: Readonly<Ref<string>>): ShallowRef<ReadonlyMap<string, Words>> {
  const shown = shallowRef<ReadonlyMap<string, Words>>(new Map())
  watch(id, () => (shown.value = new Map()))
  useLive().watchTexts((texts) => {
    let next: Map<string, Words> | null = null
    for (const event of texts) {
      if (event.run !== id.value || event.node === undefined) continue
      next ??= new Map(shown.value)
      next.set(event.node, heard(next.get(event.node), event))
    }
    if (next) shown.value = next
  })
  return shown
}
