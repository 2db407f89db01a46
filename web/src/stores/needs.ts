/** What permissions are good for, in the API's own words: taken from its description, written down nowhere else. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import { showOpenApi } from '@/api/openapi'
import { useLoaded } from '@/lib/loaded'

export const useNeeds = defineStore('needs', () => {
  const { value, load } = useLoaded(showOpenApi)
  const words = computed(() => {
    const found = new Map<string, string[]>()
    for (const path of Object.values(value.value?.paths ?? {})) {
      for (const { summary, 'x-flowork-needs': needs } of Object.values(path)) {
        if (needs) found.set(needs.permission, [...(found.get(needs.permission) ?? []), summary])
      }
    }
    return found
  })

  async function need(): Promise<void> {
    if (value.value === null) await load()
  }

  /** What one can do with these permissions, in a sentence each. */
  const told = (permissions: readonly string[]): string[] =>
    permissions.flatMap((name) => words.value.get(name) ?? []).map((text) => text.split(/[.;] /)[0]!.replaceAll('`', ''))

  return { need, told }
})
