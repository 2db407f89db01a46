/** How many runs end a minute, and the newest ones: from the history when the page opens, and live from then on. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import { listRuns, type RunView } from '@/api/runs'
import type { LiveRun } from '@/api/live'
import type { RunState } from '@/api/flows'
import { useFollowed } from '@/lib/loaded'
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

interface Past {
  minutes: ReadonlyMap<number, Minute>
  /** Runs whose end is in the minutes. */
  counted: ReadonlySet<string>
  newest: readonly RunView[]
}

const minuteOf = (at: number): number => Math.floor(at / 60)
const isBad = (state: string): boolean => state === 'failed' || state === 'dead'

export const useActivity = defineStore('activity', () => {
  const live = useLive()
  const session = useSession()
  const flows = useFlows()
  const { value, error, load, again, take } = useFollowed(read, moved)
  const newest = computed(() => value.value?.newest ?? [])

  function add(found: Map<number, Minute>, at: number, state: string): void {
    const minute = found.get(minuteOf(at)) ?? { ended: 0, failed: 0 }
    found.set(minuteOf(at), { ended: minute.ended + 1, failed: minute.failed + (isBad(state) ? 1 : 0) })
  }

  async function read(signal: AbortSignal): Promise<Past> {
    const since = Date.now() / 1000 - MINUTES * 60
    const [recent, last] = await Promise.all([
      listRuns({ workspace: session.workspace, since, limit: READ }, signal),
      listRuns({ workspace: session.workspace, limit: NEWEST }, signal),
    ])
    const minutes = new Map<number, Minute>()
    const ended = recent.items.filter((run) => run.finished !== null)
    for (const run of ended) add(minutes, run.finished!, run.state)
    return { minutes, counted: new Set(ended.map((run) => run.id)), newest: last.items }
  }

  function moved(past: Past, runs: readonly LiveRun[]): Past {
    const minutes = new Map(past.minutes)
    const counted = new Set(past.counted)
    const oldest = minuteOf(Date.now() / 1000) - MINUTES
    const list = new Map(past.newest.map((run) => [run.id, run]))
    for (const run of runs) {
      if (run.place || run.parent) continue
      if (run.finished !== null && !counted.has(run.run)) {
        counted.add(run.run)
        add(minutes, run.finished, run.state)
      }
      list.set(run.run, { ...list.get(run.run), ...viewOf(run) })
    }
    for (const minute of minutes.keys()) if (minute < oldest) minutes.delete(minute)
    return { minutes, counted, newest: [...list.values()].sort((a, b) => b.accepted - a.accepted).slice(0, NEWEST) }
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
    return Array.from({ length: MINUTES }, (_, i) => value.value?.minutes.get(last - MINUTES + 1 + i)?.[what] ?? 0)
  }

  live.watchRuns(take)
  live.watchReset(again)

  return { newest, loaded: computed(() => value.value !== null), error, load, series, open: computed(() => newest.value.filter((run) => isOpen(run.state)).length) }
})
