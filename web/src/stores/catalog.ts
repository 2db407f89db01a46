/** The kinds of nodes and triggers, by their type. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import { showCatalog } from '@/api/catalog'
import { useLoaded } from '@/lib/loaded'

export const useCatalog = defineStore('catalog', () => {
  const { value, load, loading, error } = useLoaded(showCatalog)
  const nodes = computed(() => new Map((value.value?.nodes ?? []).map((kind) => [kind.type, kind])))
  const triggers = computed(() => new Map((value.value?.triggers ?? []).map((kind) => [kind.type, kind])))
  const broken = computed(() => value.value?.broken ?? [])

  /** Load it unless it is there: it changes only when the engine is started anew. */
  async function need(): Promise<void> {
    if (value.value === null) await load()
  }

  return { value, nodes, triggers, broken, loading, error, load, need }
})
