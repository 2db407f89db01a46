/** How an update goes: asked again and again while one is under way, also while everything is started anew for it. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import * as api from '@/api/update'
import { useLoaded } from '@/lib/loaded'

/** Milliseconds between two looks. */
const ROUND = 3000
/** The moments of an update in their order, as people call them. */
export const MOMENTS: readonly [api.UpdatePhase, string][] = [
  ['unpacking', 'Checking its signature, and unpacking it'],
  ['preparing', 'Making it ready beside the version that runs'],
  ['rehearsing', 'Trying its form of the database on a copy'],
  ['switching', 'Starting everything anew with it'],
  ['watching', 'Watching for five minutes whether all is well'],
]

export const useUpdate = defineStore('update', () => {
  const { value, loading, error, load } = useLoaded(api.showUpdate)
  const phase = computed(() => value.value?.state.phase ?? 'none')
  const underWay = computed(() => value.value?.waiting === true || phase.value === 'returning' || MOMENTS.some(([name]) => name === phase.value))

  let users = 0
  let timer: ReturnType<typeof setTimeout> | undefined

  async function round(): Promise<void> {
    await load()
    clearTimeout(timer)
    if (users > 0) timer = setTimeout(() => void (underWay.value || error.value ? round() : again()), ROUND)
  }

  /** Nothing is under way: look whether a stick was plugged in, less often. */
  function again(): void {
    timer = setTimeout(() => void round(), 3 * ROUND)
  }

  /** Keep it up to date until the returned function is called. */
  function watch(): () => void {
    if (users++ === 0) void round()
    return () => {
      if (--users === 0) clearTimeout(timer)
    }
  }

  async function bring(source: string): Promise<void> {
    value.value = await api.bringRelease(source)
    void round()
  }

  return { value, loading, error, phase, underWay, load, watch, bring }
})
