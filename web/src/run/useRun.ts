/** One run with its flow and its children, kept up to date while it is under way. */

import { computed, onScopeDispose, ref, shallowRef, watch, type ComputedRef, type Ref, type ShallowRef } from 'vue'
import { ApiError } from '@/api/client'
import { validateFlow } from '@/api/flows'
import { childrenOf, flowOfRun, showRun, type ChildView, type RunFlow, type RunStory } from '@/api/runs'
import { graphAt, type FlowDoc } from '@/editor/flowdoc'
import { useNow } from '@/lib/now'
import { useLive } from '@/stores/live'
import { Timeline } from './timeline'

/** Milliseconds between two looks at a run that moves all the time; one that takes long to tell is looked at less often. */
const PACE = 250
const REST = 4
const CHILDREN = 200

export interface OpenRun {
  story: ShallowRef<RunStory | null>
  flow: ShallowRef<RunFlow | null>
  /** Why the flow cannot be drawn; the run can be told all the same. */
  flowFault: Ref<string>
  doc: ComputedRef<FlowDoc | null>
  /** Hosts that see what a node works on, by its id. */
  sends: ShallowRef<ReadonlyMap<string, readonly string[]>>
  timeline: ComputedRef<Timeline | null>
  children: ShallowRef<readonly ChildView[]>
  moreChildren: Ref<string>
  error: ShallowRef<ApiError | null>
  loading: Ref<boolean>
  load: () => Promise<void>
  loadChildren: () => Promise<void>
}

/** Follows the run with this id; another id begins anew. */
export function useRun(id: Readonly<Ref<string>>): OpenRun {
  const live = useLive()
  const now = useNow()
  const story = shallowRef<RunStory | null>(null)
  const flow = shallowRef<RunFlow | null>(null)
  const flowFault = ref('')
  const sends = shallowRef<ReadonlyMap<string, readonly string[]>>(new Map())
  const children = shallowRef<readonly ChildView[]>([])
  const moreChildren = ref('')
  const error = shallowRef<ApiError | null>(null)
  const loading = ref(false)
  let asking: AbortController | null = null
  let again = false
  let timer: ReturnType<typeof setTimeout> | undefined
  let closed = false
  let pace = PACE

  async function load(): Promise<void> {
    if (asking !== null) {
      again = true
      return
    }
    const mine = (asking = new AbortController())
    const wanted = id.value
    loading.value = story.value === null
    const began = performance.now()
    try {
      const found = await showRun(wanted, 'full', mine.signal)
      if (mine.signal.aborted) return
      story.value = found
      error.value = null
      if (flow.value === null && !flowFault.value) await loadFlow(wanted, mine.signal)
      if (found.records.some((record) => record.kind === 'spawned')) await firstChildren(wanted, mine.signal)
    } catch (problem) {
      if (mine.signal.aborted) return
      if (!(problem instanceof ApiError)) throw problem
      error.value = problem
    } finally {
      if (asking === mine) {
        asking = null
        loading.value = false
        pace = Math.max(PACE, REST * (performance.now() - began))
        if (again && !closed) later()
        again = false
      }
    }
  }

  async function loadFlow(wanted: string, signal: AbortSignal): Promise<void> {
    try {
      flow.value = await flowOfRun(wanted, signal)
      void loadSends(flow.value, signal)
    } catch (problem) {
      if (!(problem instanceof ApiError)) throw problem
      flowFault.value = problem.message
    }
  }

  async function loadSends({ flow: body, path }: RunFlow, signal: AbortSignal): Promise<void> {
    const prefix = path.map((id) => `${id}/`).join('')
    try {
      const { nodes } = await validateFlow(body, undefined, story.value?.workspace, signal)
      sends.value = new Map(Object.entries(nodes).filter(([name]) => name.startsWith(prefix)).map(([name, traits]) => [name.slice(prefix.length), traits.sends_to ?? []]))
    } catch {
      // The run can be told without it; who may not check flows is not told.
    }
  }

  async function firstChildren(wanted: string, signal: AbortSignal): Promise<void> {
    const page = await childrenOf(wanted, { limit: CHILDREN }, signal)
    if (signal.aborted) return
    const seen = new Set(page.items.map((child) => child.id))
    const older = children.value.filter((child) => !seen.has(child.id))
    if (!older.length) moreChildren.value = page.next
    children.value = [...page.items, ...older]
  }

  async function loadChildren(): Promise<void> {
    if (!moreChildren.value) return
    const wanted = id.value
    const page = await childrenOf(wanted, { limit: CHILDREN, cursor: moreChildren.value })
    if (wanted !== id.value) return
    children.value = [...children.value, ...page.items]
    moreChildren.value = page.next
  }

  function later(): void {
    timer ??= setTimeout(() => {
      timer = undefined
      void load()
    }, pace)
  }

  function begin(): void {
    asking?.abort()
    asking = null
    story.value = flow.value = error.value = null
    flowFault.value = moreChildren.value = ''
    sends.value = new Map()
    children.value = []
    void load()
  }

  watch(id, begin, { immediate: true })
  live.watchRuns((runs) => {
    if (runs.some((run) => run.run === id.value || run.parent === id.value)) later()
  })
  live.watchReset(() => void load())
  watch(
    () => live.state,
    (state, before) => {
      if (state === 'live' && before === 'cut') void load()
    },
  )
  onScopeDispose(() => {
    closed = true
    clearTimeout(timer)
    asking?.abort()
  })

  const doc = computed(() => flow.value?.flow as unknown as FlowDoc | undefined ?? null)
  const timeline = computed(() => {
    const told = story.value
    if (told === null) return null
    const edges = doc.value ? (graphAt(doc.value, flow.value!.path).edges ?? []) : []
    return new Timeline(told, edges, told.finished ?? now.value)
  })
  return { story, flow, flowFault, doc, sends, timeline, children, moreChildren, error, loading, load, loadChildren }
}
