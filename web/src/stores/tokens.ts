/** Engine tokens. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import { listScopes, type ScopeView } from '@/api/roles'
import * as api from '@/api/tokens'
import { useLoaded } from '@/lib/loaded'
import { useSession } from './session'

export const useTokens = defineStore('tokens', () => {
  const session = useSession()
  const { value, loading, error, load } = useLoaded(
    async (signal) => (await api.listTokens({ workspace: session.workspace }, signal)).items,
  )
  const items = computed(() => value.value ?? [])

  const scopesIn = async (workspace: string): Promise<ScopeView[]> => (await listScopes(workspace)).items

  async function create(...made: Parameters<typeof api.createToken>): Promise<api.MadeToken> {
    const token = await api.createToken(...made)
    void load()
    return token
  }

  async function revoke(id: string): Promise<void> {
    await api.revokeToken(id)
    await load()
  }

  return { items, loading, error, load, scopesIn, create, revoke }
})
