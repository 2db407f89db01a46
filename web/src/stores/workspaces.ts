/** The workspaces that are known: those one has a role in, and those that flows lie in. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import { allFlows } from '@/api/flows'
import { useLoaded } from '@/lib/loaded'
import { useSession } from './session'

/** Stands for all of them. */
export const EVERYWHERE = '*'

export const useWorkspaces = defineStore('workspaces', () => {
  const session = useSession()
  const { value, load } = useLoaded(async (signal) => {
    const flows = await allFlows({ workspace: session.workspace }, signal)
    return [...new Set(flows.map((flow) => flow.workspace))]
  })
  const all = computed(() => {
    const own = session.places.filter((place) => place !== EVERYWHERE)
    return [...new Set([session.home, ...own, ...(value.value ?? [])])].sort()
  })
  /** In which of them one may do this. */
  const where = (permission: string): string[] => all.value.filter((place) => session.may(permission, place))

  return { all, where, load }
})
