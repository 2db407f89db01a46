/** The names of the secrets of one workspace; their values never come here. */

import { defineStore } from 'pinia'
import { computed, ref } from 'vue'
import * as api from '@/api/secrets'
import { useLoaded } from '@/lib/loaded'

export const useSecrets = defineStore('secrets', () => {
  const workspace = ref('default')
  const { value, loading, error, load } = useLoaded(
    async (signal) => (await api.listSecrets({ workspace: workspace.value, uses: true }, signal)).items,
  )
  const items = computed(() => value.value ?? [])

  /** Show this workspace's. */
  async function choose(name: string): Promise<void> {
    if (name !== workspace.value) value.value = null
    workspace.value = name
    await load()
  }

  async function save(name: string, content: string): Promise<void> {
    await api.setSecret(name, content, workspace.value)
    await load()
  }

  async function remove(name: string): Promise<void> {
    await api.deleteSecret(name, workspace.value)
    await load()
  }

  return { workspace, items, loading, error, load, choose, save, remove }
})
