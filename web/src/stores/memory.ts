/** What flows of a workspace have remembered: in numbers, and page by page. */

import { defineStore } from 'pinia'
import { ref } from 'vue'
import * as api from '@/api/memory'
import { useLoaded } from '@/lib/loaded'
import { usePaged } from '@/lib/paged'
import { useSession } from './session'

export interface MemoryQuery {
  query: string
  flow: string
  outcome: string
  tag: string
}

export const NO_QUERY: MemoryQuery = { query: '', flow: '', outcome: '', tag: '' }
const AT_ONCE = 50

export const useMemory = defineStore('memory', () => {
  const workspace = ref(useSession().home)
  const summary = useLoaded((signal) => api.showMemory(workspace.value, signal))
  const which = ({ flow, outcome, tag }: MemoryQuery): api.WhichEpisodes => ({ workspace: workspace.value, flow, outcome, tag: tag ? [tag] : [] })
  const found = usePaged<api.Episode, MemoryQuery & { workspace: string }>(
    (asked, cursor, signal) => api.listEpisodes({ ...which(asked), query: asked.query, cursor, limit: AT_ONCE }, signal),
    { ...NO_QUERY, workspace: workspace.value },
  )

  const load = (asked: MemoryQuery): Promise<unknown> => Promise.all([summary.load(), found.load({ ...asked, workspace: workspace.value })])

  async function forget(ids: readonly number[]): Promise<number> {
    const gone = await api.forgetEpisodes({ workspace: workspace.value, id: ids })
    await Promise.all([summary.load(), found.load()])
    return gone
  }

  /** All that fits, or all there is if nothing narrows it. */
  async function forgetAll(asked: MemoryQuery): Promise<number> {
    const narrow = which(asked)
    const gone = await api.forgetEpisodes({ ...narrow, all: !narrow.flow && !narrow.outcome && !narrow.tag?.length })
    await Promise.all([summary.load(), found.load()])
    return gone
  }

  return { workspace, summary, found, load, forget, forgetAll }
})
