/** Who has a role, and which roles there are. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import { listRoles } from '@/api/roles'
import * as api from '@/api/users'
import { actorName } from '@/lib/format'
import { useLoaded } from '@/lib/loaded'
import { useSession } from './session'

export const usePeople = defineStore('people', () => {
  const session = useSession()
  const { value, loading, error, load } = useLoaded(
    async (signal) => (await api.listUsers({ workspace: session.workspace }, signal)).items,
  )
  const items = computed(() => value.value ?? [])
  const names = computed(() => {
    const { id = '', name = '' } = session.view ?? {}
    return new Map([...items.value.map((one) => [one.address, one.name] as const), ...(name ? [[id, name] as const] : [])])
  })

  /** Who did something, by name where that is known; `need` asks for it once. */
  const nameOf = (actor: string): string => actorName(actor, names.value)
  async function need(): Promise<void> {
    if (value.value === null && session.may('users:read')) await load()
  }

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

  return { items, names, loading, error, load, need, nameOf, rolesIn, save, remove }
})
