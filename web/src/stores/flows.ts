/** All flows with their newest runs, kept up to date by what comes live. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import { enable, deploy, undeploy } from '@/api/deployments'
import * as api from '@/api/flows'
import type { LiveRun } from '@/api/live'
import { startRun, type Started } from '@/api/runs'
import { newKey } from '@/api/client'
import { useFollowed } from '@/lib/loaded'
import { useLive } from './live'
import { useSession } from './session'

/** Runs in a flow's strip, as many as the engine gives. */
const STRIP = 12

export const useFlows = defineStore('flows', () => {
  const live = useLive()
  const session = useSession()
  const { value, loading, busy, error, load, again, take } = useFollowed(
    (signal) => api.allFlows({ workspace: session.workspace, recent: true }, signal),
    withRuns,
  )
  const items = computed(() => value.value ?? [])
  const byId = computed(() => new Map(items.value.map((flow) => [flow.id, flow])))
  const tags = computed(() => [...new Set(items.value.flatMap((flow) => flow.tags))].sort())
  const folders = computed(() => [...new Set(items.value.map((flow) => flow.folder).filter(Boolean))].sort())

  function put(flow: api.FlowView): void {
    const others = items.value.filter((one) => one.id !== flow.id)
    const recent = flow.recent ?? byId.value.get(flow.id)?.recent ?? []
    value.value = [...others, { ...flow, recent }].sort((a, b) => a.name.localeCompare(b.name))
  }

  async function create(flow: api.NewFlow, draft = false): Promise<api.SavedFlow> {
    const saved = await api.createFlow(flow, session.home, draft, newKey())
    put(saved)
    return saved
  }

  async function setEnabled(id: string, on: boolean): Promise<void> {
    put(await enable(id, on))
  }

  async function setLive(id: string, on: boolean): Promise<void> {
    put(await (on ? deploy(id) : undeploy(id)))
  }

  async function move(id: string, folder: string): Promise<void> {
    put(await api.moveFlow(id, folder))
  }

  async function remove(id: string): Promise<void> {
    await api.deleteFlow(id)
    value.value = items.value.filter((flow) => flow.id !== id)
  }

  const start = (id: string, input?: unknown): Promise<Started> => startRun(id, { input }, newKey())

  live.watchRuns(take)
  live.watchReset(again)

  return {
    items, byId, tags, folders, loading, busy, error, loaded: computed(() => value.value !== null),
    load, put, create, setEnabled, setLive, move, remove, start,
  }
})

/** Runs that moved: into the strips of their flows. */
function withRuns(flows: api.FlowView[], runs: readonly LiveRun[]): api.FlowView[] {
  const touched = new Map<string, LiveRun[]>()
  for (const run of runs) touched.set(run.flow, [...(touched.get(run.flow) ?? []), run])
  if (!flows.some((flow) => touched.has(flow.id))) return flows
  return flows.map((flow) => {
    const news = touched.get(flow.id)
    return news === undefined ? flow : { ...flow, recent: merged(flow.recent ?? [], news) }
  })
}

function merged(old: readonly api.RecentRun[], news: readonly LiveRun[]): api.RecentRun[] {
  const runs = new Map(old.map((run) => [run.id, run]))
  for (const { run, state, accepted, place, parent } of news) {
    // A run of a node's body, or that another run started, is not one of the flow's own.
    if (place || parent) continue
    runs.set(run, { id: run, state: state as api.RunState, accepted })
  }
  return [...runs.values()].sort((a, b) => b.accepted - a.accepted).slice(0, STRIP)
}
