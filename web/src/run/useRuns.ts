/** A list of runs that follows what happens: the rows, the pages behind them, and what came meanwhile. */

import { onScopeDispose, ref, shallowRef, triggerRef, type Ref, type ShallowRef } from 'vue'
import { ApiError, type Page } from '@/api/client'
import type { LiveRun } from '@/api/live'
import type { RunView } from '@/api/runs'
import { useFlows } from '@/stores/flows'
import { useLive } from '@/stores/live'
import { RunFeed } from './feed'
import { EVERYTHING, type Wanted } from './filters'

/** Milliseconds in which what comes live is gathered: more often is more than one can see. */
const GATHER = 200
/** Pages of a search that are asked for one after the other before the person is asked whether to go on. */
const EMPTY_PAGES = 12

export interface RunList {
  /** Replaced by a new one when the question changes; its rows change in place. */
  feed: ShallowRef<RunFeed>
  rows: ShallowRef<readonly RunView[]>
  held: Ref<number>
  stale: Ref<boolean>
  more: Ref<boolean>
  busy: Ref<boolean>
  loaded: Ref<boolean>
  error: ShallowRef<ApiError | null>
  load: (wanted?: Wanted) => Promise<void>
  next: () => Promise<void>
  release: () => void
}

export type Ask = (wanted: Wanted, cursor: string, signal: AbortSignal) => Promise<Page<RunView>>

/** `following` says whether new rows may come on top now. */
export function useRuns(ask: Ask, following: () => boolean): RunList {
  const flows = useFlows()
  const live = useLive()
  const nameOf = (flow: string): string => flows.byId.get(flow)?.name ?? flow
  const feed = shallowRef(new RunFeed(EVERYTHING, nameOf))
  const rows = shallowRef<readonly RunView[]>([])
  const held = ref(0)
  const stale = ref(false)
  const more = ref(false)
  const busy = ref(false)
  const loaded = ref(false)
  const error = shallowRef<ApiError | null>(null)
  let cursor = ''
  let running: AbortController | null = null
  let waiting: LiveRun[] = []
  /** What came since the first page was asked for: that page may be older. Null: none is on its way. */
  let meanwhile: LiveRun[] | null = null
  let timer: ReturnType<typeof setTimeout> | undefined

  function show(): void {
    rows.value = feed.value.rows
    held.value = feed.value.held.size
    stale.value = feed.value.stale
    triggerRef(feed)
  }

  async function get(first: boolean): Promise<void> {
    running?.abort()
    const mine = (running = new AbortController())
    busy.value = true
    meanwhile = first ? [] : null
    try {
      let from = first ? '' : cursor
      for (let pages = 0; pages < EMPTY_PAGES; pages++) {
        const page = await ask(feed.value.wanted, from, mine.signal)
        if (mine.signal.aborted) return
        feed.value.add(page.items, first && pages === 0)
        if (meanwhile?.length) feed.value.take(meanwhile, following())
        meanwhile = null
        cursor = from = page.next
        more.value = cursor !== ''
        loaded.value = true
        error.value = null
        show()
        if (page.items.length || !cursor) break
      }
    } catch (problem) {
      if (mine.signal.aborted) return
      if (!(problem instanceof ApiError)) throw problem
      error.value = problem
    } finally {
      if (running === mine) {
        running = meanwhile = null
        busy.value = false
      }
    }
  }

  async function load(wanted?: Wanted): Promise<void> {
    if (wanted && JSON.stringify(wanted) !== JSON.stringify(feed.value.wanted)) {
      feed.value = new RunFeed(wanted, nameOf)
      cursor = ''
      more.value = loaded.value = false
      show()
    }
    await get(true)
  }

  const next = async (): Promise<void> => {
    if (!busy.value && cursor) await get(false)
  }

  function take(): void {
    timer = undefined
    const events = waiting
    waiting = []
    feed.value.take(events, following())
    if (feed.value.overgrown && following()) void load()
    show()
  }

  live.watchRuns((events) => {
    meanwhile?.push(...events)
    if (!loaded.value) return
    waiting.push(...events)
    timer ??= setTimeout(take, GATHER)
  })
  live.watchReset(() => void load())
  onScopeDispose(() => {
    running?.abort()
    clearTimeout(timer)
  })

  return {
    feed, rows, held, stale, more, busy, loaded, error, load, next,
    release: () => {
      feed.value.release()
      show()
    },
  }
}
