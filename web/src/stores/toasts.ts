/** Short words about what was done or did not work, at the edge of the page. */

import { defineStore } from 'pinia'
import { shallowRef } from 'vue'
import { ApiError } from '@/api/client'

export interface Toast {
  id: number
  kind: 'done' | 'problem' | 'note'
  title: string
  detail: string
  /** What can be done about it, such as Undo. */
  action?: { label: string; run: () => void }
}

/** Milliseconds; problems stay until they are closed. */
const STAYS = 5000
const MOST = 4

export const useToasts = defineStore('toasts', () => {
  const items = shallowRef<readonly Toast[]>([])
  let newest = 0

  function add(toast: Omit<Toast, 'id'>): number {
    const id = ++newest
    items.value = [...items.value.slice(1 - MOST), { ...toast, id }]
    if (toast.kind !== 'problem') setTimeout(() => close(id), toast.action ? STAYS * 2 : STAYS)
    return id
  }

  function close(id: number): void {
    items.value = items.value.filter((toast) => toast.id !== id)
  }

  const done = (title: string, detail = '', action?: Toast['action']): number =>
    add({ kind: 'done', title, detail, action })

  const note = (title: string, detail = ''): number => add({ kind: 'note', title, detail })

  /** `what` says what did not work: "The flow was not deleted". */
  function problem(what: string, error?: unknown): number {
    const detail = error instanceof ApiError || error instanceof Error ? error.message : String(error ?? '')
    return add({ kind: 'problem', title: what, detail })
  }

  return { items, done, note, problem, close }
})
