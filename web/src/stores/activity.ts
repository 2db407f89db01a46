/** How many runs end a minute, and the newest ones: from the history when the page opens, and live from then on. */

import { defineStore } from 'pinia'
import { computed, shallowRef } from 'vue'
import { ApiError } from '@/api/client'
import { listRuns, type RunView } from '@/api/runs'
import type { LiveRun } from '@/api/live'
import type { RunState } from '@/api/flows'
import { isOpen } from '@/lib/states'
import { useFlows } from './flows'
import { useLive } from './live'
import { useSession } from './session'

/** Minutes that the line shows; runs that the list shows; runs that are read to draw the line at first. */
const MINUTES = 30
const NEWEST = 8
const READ = 500

interface Minute {
  ended: number
  failed: number
}

const minuteOf = (at: number): number => Math.floor(at / 60)
const isBad = (state: string): boolean => state === 'failed' || state === 'dead'

export const useActivity = defineStore('activity', () => {
  const live = useLive()
  const session = useSession()
  const flows = useFlows()
  const minutes = shallowRef<ReadonlyMap<number, Minute>>(new Map())
  const newest = shallowRef<RunView[]>([])
  const loaded = shallowRef(false)
  const error = shallowRef<ApiError | null>(null)
  let counted = new Set<string>()

  function add(found: Map<number, Minute>, at: number, state: string): void {
    const minute = found.get(minuteOf(at)) ?? { ended: 0, failed: 0 }
    found.set(minuteOf(at), { ended: minute.ended + 1, failed: minute.failed + (isBad(state) ? 1 : 0) })
  }

  async function load(): Promise<void> {
    const since = Date.now() / 1000 - MINUTES * 60
    try {
      const [recent, last] = await Promise.all([
        listRuns({ workspace: session.workspace, since, limit: READ }),
        listRuns({ workspace: session.workspace, limit: NEWEST }),
      ])
      const found = new Map<number, Minute>()
      counted = new Set()
      for (const run of recent.items) {
        if (run.finished === null) continue
        counted.add(run.id)
        add(found, run.finished, run.state)
      }
      minutes.value = found
      newest.value = last.items
      loaded.value = true
      error.value = null
    } catch (problem) {
      if (!(problem instanceof ApiError)) throw problem
      error.value = problem
    }
  }

  function moved(runs: readonly LiveRun[]): void {
    if (!loaded.value) return
    const found = new Map(minutes.value)
    const oldest = minuteOf(Date.now() / 1000) - MINUTES
    const list = new Map(newest.value.map((run) => [run.id, run]))
    for (const run of runs) {
      if (run.place || run.parent) continue
      if (run.finished !== null && !counted.has(run.run)) {
        counted.add(run.run)
        add(found, run.finished, run.state)
      }
      list.set(run.run, { ...list.get(run.run), ...viewOf(run) })
    }
    for (const minute of found.keys()) if (minute < oldest) found.delete(minute)
    minutes.value = found
    newest.value = [...list.values()].sort((a, b) => b.accepted - a.accepted).slice(0, NEWEST)
  }

  function viewOf(run: LiveRun): RunView {
    const flow = flows.byId.get(run.flow)
    return {
      id: run.run,
      flow: run.flow,
      flow_name: flow?.name ?? run.flow,
      workspace: flow?.workspace ?? '',
      version: run.version,
      place: run.place,
      state: run.state as RunState,
      trigger: run.trigger,
      accepted: run.accepted,
      finished: run.finished,
      took: run.finished === null ? null : run.finished - run.accepted,
      error: run.error,
      parent: run.parent,
      origin: run.origin,
      letter: run.letter as RunView['letter'],
    }
  }

  /** Of each of the last minutes, oldest first. */
  function series(now: number, what: keyof Minute): number[] {
    const last = minuteOf(now)
    return Array.from({ length: MINUTES }, (_, i) => minutes.value.get(last - MINUTES + 1 + i)?.[what] ?? 0)
  }

  live.watchRuns(moved)
  live.watchReset(() => loaded.value && void load())

  return { newest, loaded, error, load, series, open: computed(() => newest.value.filter((run) => isOpen(run.state)).length) }
})
