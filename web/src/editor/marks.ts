/** From the engine's comparison of two flows to colours on the canvas and lines in a list. */

import type { DiffMark } from '@/canvas/shapes'
import { TRIGGER, type FlowDoc, type FlowEdge } from './flowdoc'
import { edgeKey, type Marks } from './sceneof'

export interface Change {
  path: string
  op: 'added' | 'removed' | 'changed'
  old: unknown
  new: unknown
}

export interface Element {
  id: string
  type: string
  changes: Change[]
}

export interface Elements {
  added: Element[]
  removed: Element[]
  changed: Element[]
  moved: string[]
}

export interface FlowDiff {
  nodes: Elements
  triggers: Elements
  edges_added: FlowEdge[]
  edges_removed: FlowEdge[]
  settings: Change[]
  other: Change[]
}

export function marksOf(diff: FlowDiff): Marks {
  const shapes = new Map<string, DiffMark>()
  const note = (elements: Elements, prefix: string): void => {
    for (const one of elements.added) shapes.set(prefix + one.id, 'added')
    for (const one of elements.removed) shapes.set(prefix + one.id, 'removed')
    for (const one of elements.changed) shapes.set(prefix + one.id, 'changed')
    for (const id of elements.moved) shapes.set(prefix + id, 'moved')
  }
  note(diff.nodes, '')
  note(diff.triggers, TRIGGER)
  const edges = new Map<string, DiffMark>()
  for (const edge of diff.edges_removed) edges.set(edgeKey(edge), 'removed')
  for (const edge of diff.edges_added) edges.set(edgeKey(edge), 'added')
  return { shapes, edges }
}

/** The newer flow with what was taken out of it put back, so that both can be seen in one picture. */
export function overlaid(newer: FlowDoc, older: FlowDoc, diff: FlowDiff): FlowDoc {
  const gone = new Set(diff.nodes.removed.map((one) => one.id))
  const goneTriggers = new Set(diff.triggers.removed.map((one) => one.id))
  const nodes = [...newer.nodes, ...older.nodes.filter((node) => gone.has(node.id))]
  const there = new Set(nodes.map((node) => node.id))
  const edges = diff.edges_removed.filter((edge) => there.has(edge.from) && there.has(edge.to))
  return {
    ...newer,
    nodes,
    edges: [...(newer.edges ?? []), ...edges],
    triggers: [...(newer.triggers ?? []), ...(older.triggers ?? []).filter((one) => goneTriggers.has(one.id))],
  }
}

export interface Line {
  op: DiffMark
  what: string
  /** The shape on the canvas that it is about, or nothing. */
  shape: string
  details: Change[]
}

/** The comparison in lines for people, what runs do first and what is only looks last. */
export function linesOf(diff: FlowDiff): Line[] {
  const lines: Line[] = []
  const list = (elements: Elements, noun: string, prefix: string): void => {
    for (const op of ['added', 'removed', 'changed'] as const) {
      for (const one of elements[op]) {
        lines.push({ op, what: `${noun} ${one.id} (${one.type})`, shape: prefix + one.id, details: one.changes })
      }
    }
  }
  list(diff.triggers, 'Trigger', TRIGGER)
  list(diff.nodes, 'Node', '')
  const link = (edge: FlowEdge): string => {
    const by = edge.port && edge.port !== 'out' ? ` by ${edge.port}` : ''
    return `Edge ${edge.from} → ${edge.to}${by}${edge.condition ? ` if ${edge.condition}` : ''}`
  }
  for (const edge of diff.edges_added) lines.push({ op: 'added', what: link(edge), shape: '', details: [] })
  for (const edge of diff.edges_removed) lines.push({ op: 'removed', what: link(edge), shape: '', details: [] })
  for (const change of [...diff.settings, ...diff.other]) {
    const settings = diff.settings.includes(change) ? 'Setting ' : 'Flow: '
    lines.push({ op: change.op, what: settings + change.path, shape: '', details: [change] })
  }
  const moved = diff.nodes.moved.length + diff.triggers.moved.length
  if (moved) lines.push({ op: 'moved', what: `${moved} ${moved === 1 ? 'node stands' : 'nodes stand'} elsewhere on the canvas`, shape: '', details: [] })
  return lines
}
