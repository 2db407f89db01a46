/** The variables of one workspace. */

import { defineStore } from 'pinia'
import { computed, ref } from 'vue'
import * as api from '@/api/variables'
import { useLoaded } from '@/lib/loaded'

export const useVariables = defineStore('variables', () => {
  const workspace = ref('default')
  const { value, loading, error, load } = useLoaded(
    async (signal) => (await api.listVariables({ workspace: workspace.value, uses: true }, signal)).items,
  )
  const items = computed(() => value.value ?? [])

  /** Show this workspace's. */
  async function choose(name: string): Promise<void> {
    if (name !== workspace.value) value.value = null
    workspace.value = name
    await load()
  }

  async function save(name: string, content: unknown): Promise<void> {
    await api.setVariable(name, content, workspace.value)
    await load()
  }

  async function remove(name: string): Promise<void> {
    await api.deleteVariable(name, workspace.value)
    await load()
  }

  return { workspace, items, loading, error, load, choose, save, remove }
})
