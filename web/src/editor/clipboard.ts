/**
 * Copying parts of flows as JSON text, so that they travel between tabs, engines and chat windows.
 *
 * Over plain http browsers give pages no clipboard of the system: then the text of the last copy is kept here, and
 * pasting from outside goes through the browser's own `paste` event or a field.
 */

import { copyText } from '@/lib/clipboard'
import { freeId, TRIGGER, type FlowDoc, type FlowEdge, type FlowNode, type FlowTrigger, type Graph } from './flowdoc'

export interface Clip {
  nodes: FlowNode[]
  edges: FlowEdge[]
  triggers: FlowTrigger[]
}

/** The picked part of a graph, with the edges between its nodes, as text. */
export function clipText(graph: Graph, triggers: readonly FlowTrigger[], picked: ReadonlySet<string>): string {
  const clip: Clip = {
    nodes: graph.nodes.filter((node) => picked.has(node.id)),
    edges: (graph.edges ?? []).filter((edge) => picked.has(edge.from) && picked.has(edge.to)),
    triggers: triggers.filter((one) => picked.has(TRIGGER + one.id)),
  }
  return JSON.stringify(clip, null, 2)
}

/** The part of a flow that a text holds: a clip, a whole flow, a list of nodes or a single node. Null for anything else. */
export function readClip(text: string): Clip | null {
  let raw: unknown
  try {
    raw = JSON.parse(text)
  } catch {
    return null
  }
  if (Array.isArray(raw)) raw = { nodes: raw }
  if (!isObject(raw)) return null
  if (typeof raw.id === 'string' && typeof raw.type === 'string') raw = { nodes: [raw] }
  const { nodes, edges, triggers } = raw as Record<string, unknown>
  const clip: Clip = {
    nodes: listOf(nodes, (one) => typeof one.id === 'string' && typeof one.type === 'string') as unknown as FlowNode[],
    edges: listOf(edges, (one) => typeof one.from === 'string' && typeof one.to === 'string') as unknown as FlowEdge[],
    triggers: listOf(triggers, (one) => typeof one.id === 'string' && typeof one.type === 'string') as unknown as FlowTrigger[],
  }
  return clip.nodes.length || clip.triggers.length ? clip : null
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function listOf(value: unknown, fits: (one: Record<string, unknown>) => boolean): Record<string, unknown>[] {
  return Array.isArray(value) ? value.filter((one): one is Record<string, unknown> => isObject(one) && fits(one)) : []
}

/** The flow's graph with a clip in it: ids are made new where they are taken, places are moved by the offset. */
export function pasted(
  graph: Graph,
  triggers: readonly FlowTrigger[],
  clip: Clip,
  offset: { x: number; y: number },
): { graph: Graph; triggers: FlowTrigger[]; picked: string[] } {
  const taken = new Set(graph.nodes.map((node) => node.id))
  const takenTriggers = new Set(triggers.map((one) => one.id))
  const renamed = new Map<string, string>()
  const nodes = clip.nodes.map((node) => {
    const id = freeId(node.id, taken)
    taken.add(id)
    renamed.set(node.id, id)
    return { ...structuredClone(node), id, position: moved(node.position, offset) }
  })
  const added = clip.triggers.map((one) => {
    const id = freeId(one.id, takenTriggers)
    takenTriggers.add(id)
    return { ...structuredClone(one), id, position: moved(one.position, offset) }
  })
  const edges = clip.edges.flatMap((edge) => {
    const from = renamed.get(edge.from)
    const to = renamed.get(edge.to)
    return from !== undefined && to !== undefined ? [{ ...edge, from, to }] : []
  })
  return {
    graph: { ...graph, nodes: [...graph.nodes, ...nodes], edges: [...(graph.edges ?? []), ...edges] },
    triggers: [...triggers, ...added],
    picked: [...nodes.map((node) => node.id), ...added.map((one) => TRIGGER + one.id)],
  }
}

function moved(at: { x: number; y: number } | null | undefined, by: { x: number; y: number }): { x: number; y: number } {
  return { x: (at?.x ?? 0) + by.x, y: (at?.y ?? 0) + by.y }
}

let kept = ''

/** Put a text on the system's clipboard where the page may, and keep it for this page in any case. */
export async function putText(text: string): Promise<'system' | 'page'> {
  kept = text
  return (await copyText(text)) ? 'system' : 'page'
}

/** What was copied last in this page, for where the system's clipboard cannot be read. */
export function keptText(): string {
  return kept
}

export function withClip(doc: FlowDoc, triggers: FlowTrigger[]): FlowDoc {
  return triggers.length || doc.triggers ? { ...doc, triggers } : doc
}
