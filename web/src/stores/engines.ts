/**
 * The engines that this panel steers: the one that the page came from, and others by address and token.
 *
 * Addresses and tokens are kept in this browser alone. An engine takes a page of another origin only if that is in
 * its setting `allowed_origins`.
 */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import { useEngine } from '@/api/client'
import { useKept } from '@/lib/kept'

export interface KnownEngine {
  name: string
  /** `http://box.local:5000`; empty for where this page came from. */
  base: string
  token: string
}

const HERE: KnownEngine = { name: 'This engine', base: '', token: '' }

export const useEngines = defineStore('engines', () => {
  const others = useKept<KnownEngine[]>('engines', [])
  const chosen = useKept<string>('engine', '')
  const all = computed(() => [HERE, ...others.value])
  const current = computed(() => all.value.find((engine) => engine.base === chosen.value) ?? HERE)

  /** Talk to the chosen engine. */
  function use(): void {
    useEngine(current.value)
  }

  /** Another engine: all that is shown was the old one's, so the page begins anew. */
  function choose(base: string): void {
    chosen.value = base
    queueMicrotask(() => location.assign('/'))
  }

  function add(engine: KnownEngine): void {
    const base = engine.base.replace(/\/+$/, '')
    others.value = [...others.value.filter((one) => one.base !== base), { ...engine, base }]
  }

  function forget(base: string): void {
    others.value = others.value.filter((one) => one.base !== base)
    if (chosen.value === base) choose('')
  }

  return { all, others, current, use, choose, add, forget }
})
