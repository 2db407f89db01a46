/** Who has a role, and which roles there are. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import { listRoles } from '@/api/roles'
import * as api from '@/api/users'
import { useLoaded } from '@/lib/loaded'
import { useSession } from './session'

export const usePeople = defineStore('people', () => {
  const session = useSession()
  const { value, loading, error, load } = useLoaded(
    async (signal) => (await api.listUsers({ workspace: session.workspace }, signal)).items,
  )
  const items = computed(() => value.value ?? [])

  /** The roles, and which of them one may give in a workspace. */
  const rolesIn = async (workspace: string): Promise<Awaited<ReturnType<typeof listRoles>>['items']> =>
    (await listRoles(workspace)).items

  async function save(address: string, role: api.Role | null, name: string, workspace: string): Promise<void> {
    await api.saveUser(address, role, name, workspace)
    await load()
  }

  async function remove(address: string): Promise<void> {
    await api.removeUser(address)
    await load()
  }

  return { items, loading, error, load, rolesIn, save, remove }
})
