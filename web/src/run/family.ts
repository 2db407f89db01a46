/** The runs that a run started, put together by the step and the item that each was for. */

import type { ChildView, RecordView } from '@/api/runs'

export interface Item {
  index: number
  /** The newest attempt. */
  run: ChildView
  /** Older ones, newest first. */
  before: readonly ChildView[]
}

export interface Brood {
  node: string
  items: readonly Item[]
  /** How many items are in each state. */
  states: Readonly<Record<string, number>>
}

/** How many runs each step has started, as the journal says. */
export function itemsOf(records: readonly RecordView[]): Map<string, number> {
  return new Map(
    records.flatMap(({ kind, node, value }) => (kind === 'spawned' && Array.isArray(value) ? [[node, value.length] as const] : [])),
  )
}

/** Children by step, in the order of the first one's start; a page of them at a time is enough. */
export function broodsOf(children: readonly ChildView[]): Brood[] {
  const byNode = new Map<string, Map<number, ChildView[]>>()
  for (const child of [...children].sort((a, b) => (a.id < b.id ? 1 : -1))) {
    const items = byNode.get(child.node) ?? new Map<number, ChildView[]>()
    byNode.set(child.node, items)
    items.set(child.index, [...(items.get(child.index) ?? []), child])
  }
  return [...byNode]
    .map(([node, items]) => {
      const list = [...items]
        .sort(([a], [b]) => a - b)
        .map(([index, runs]): Item => {
          const [run, ...before] = [...runs].sort((a, b) => b.attempt - a.attempt || (a.id < b.id ? 1 : -1))
          return { index, run: run!, before }
        })
      const states: Record<string, number> = {}
      for (const item of list) states[item.run.state] = (states[item.run.state] ?? 0) + 1
      return { node, items: list, states }
    })
    .sort((a, b) => earliest(a) - earliest(b))
}

function earliest(brood: Brood): number {
  return Math.min(...brood.items.map((item) => item.run.accepted))
}
