/** From the flow that is edited to what the canvas draws. */

import { GRID, NODE_WIDTH, nodeHeight, snap, type DiffMark, type EdgeShape, type NodeShape, type Point } from '@/canvas/shapes'
import { layout, type LayoutInput } from '@/canvas/layout'
import { graphAt, portOf, TRIGGER, type FlowDoc, type FlowNode, type FlowTrigger, type Path } from './flowdoc'

export interface Kind {
  type: string
  title: string
  icon: string
  summary: string
  help: string
  schema: Record<string, unknown>
  category?: string
  effect?: string
  ports?: string[]
  has_body?: boolean
  web?: boolean
}

export interface Kinds {
  nodes: ReadonlyMap<string, Kind>
  triggers: ReadonlyMap<string, Kind>
}

/** What the engine said of the graph: ports and the hosts that see what a node works on, by its id, faults by shape id and edge index. */
export interface Findings {
  ports: ReadonlyMap<string, readonly string[]>
  sends?: ReadonlyMap<string, readonly string[]>
  shapes: ReadonlyMap<string, number>
  edges: ReadonlyMap<number, number>
}

export const NOTHING_FOUND: Findings = { ports: new Map(), shapes: new Map(), edges: new Map() }

/** How a flow differs from another, by shape id and by what an edge is (`edgeKey`). */
export interface Marks {
  shapes: ReadonlyMap<string, DiffMark>
  edges: ReadonlyMap<string, DiffMark>
}

export const NO_MARKS: Marks = { shapes: new Map(), edges: new Map() }

export function edgeKey(edge: { from: string; to: string; port?: string; condition?: string }): string {
  return [edge.from, edge.port || 'out', edge.to, edge.condition ?? ''].join('\n')
}

/** More links than this from triggers to first nodes would hide the flow behind them. */
const MOST_TRIGGER_LINKS = 120

export function shapesOf(
  doc: FlowDoc,
  path: Path,
  kinds: Kinds,
  found: Findings = NOTHING_FOUND,
  marks: Marks = NO_MARKS,
  homes: Map<string, Point> = new Map(),
): { nodes: NodeShape[]; edges: EdgeShape[] } {
  const graph = graphAt(doc, path)
  const nodes = graph.nodes.map((node) => nodeShape(node, kinds, found, marks))
  const edges: EdgeShape[] = (graph.edges ?? []).map((edge, index) => ({
    index,
    from: edge.from,
    to: edge.to,
    port: portOf(edge),
    condition: edge.condition ?? '',
    diff: marks.edges.get(edgeKey(edge)) ?? '',
    problems: found.edges.get(index) ?? 0,
  }))
  if (!path.length) {
    const triggers = doc.triggers ?? []
    nodes.push(...triggers.map((one) => triggerShape(one, kinds, found, marks)))
    edges.push(...triggerLinks(graph.nodes, graph.edges ?? [], triggers))
  }
  return { nodes: placed(nodes, edges, homes), edges }
}

function nodeShape(node: FlowNode, kinds: Kinds, found: Findings, marks: Marks): NodeShape {
  const kind = kinds.nodes.get(node.type)
  const ports = found.ports.get(node.id) ?? portsBefore(kind)
  return {
    ...placeOf(node),
    w: NODE_WIDTH,
    h: nodeHeight(ports),
    id: node.id,
    kind: 'node',
    type: node.type,
    title: node.name || node.id,
    subtitle: kind?.title ?? node.type,
    icon: kind?.icon ?? 'help',
    category: kind?.category ?? '',
    ports,
    hasInput: true,
    disabled: node.disabled ?? false,
    hasBody: kind?.has_body ?? false,
    problems: found.shapes.get(node.id) ?? 0,
    sendsTo: found.sends?.get(node.id) ?? [],
    diff: marks.shapes.get(node.id) ?? '',
  }
}

/** The ports of the kind, until the engine has said which ones this very node has. */
function portsBefore(kind: Kind | undefined): readonly string[] {
  return kind?.ports ?? ['out', 'error']
}

function triggerShape(one: FlowTrigger, kinds: Kinds, found: Findings, marks: Marks): NodeShape {
  const kind = kinds.triggers.get(one.type)
  const id = TRIGGER + one.id
  return {
    ...placeOf(one),
    w: NODE_WIDTH,
    h: nodeHeight(['out']),
    id,
    kind: 'trigger',
    type: one.type,
    title: one.name || kind?.title || one.id,
    subtitle: one.name ? (kind?.title ?? one.type) : one.id,
    icon: kind?.icon ?? 'play',
    category: 'trigger',
    ports: one.starts_runs === false ? [] : ['out'],
    hasInput: false,
    disabled: one.disabled ?? false,
    hasBody: false,
    problems: found.shapes.get(id) ?? 0,
    diff: marks.shapes.get(id) ?? '',
  }
}

/** NaN marks what has no place yet; `placed` finds one. */
function placeOf(thing: { position?: { x: number; y: number } | null }): { x: number; y: number } {
  const at = thing.position
  return at && Number.isFinite(at.x) && Number.isFinite(at.y) ? { x: at.x, y: at.y } : { x: NaN, y: NaN }
}

/** The dashed links: a trigger's payload goes to each node that no edge leads to. */
function triggerLinks(
  nodes: readonly FlowNode[],
  edges: readonly { to: string }[],
  triggers: readonly FlowTrigger[],
): EdgeShape[] {
  const led = new Set(edges.map((edge) => edge.to))
  const firsts = nodes.filter((node) => !led.has(node.id))
  const starting = triggers.filter((one) => one.starts_runs !== false)
  if (firsts.length * starting.length > MOST_TRIGGER_LINKS) return []
  return starting.flatMap((one) =>
    firsts.map((node) => ({
      index: -1,
      from: TRIGGER + one.id,
      to: node.id,
      port: 'out',
      condition: '',
      diff: '' as DiffMark,
      problems: 0,
    })),
  )
}

/** Nodes without a place get one, which `homes` remembers: all of them by layout, or the few new ones below the rest. */
function placed(nodes: NodeShape[], edges: readonly EdgeShape[], homes: Map<string, Point>): NodeShape[] {
  const homeless = nodes.filter((node) => Number.isNaN(node.x))
  const strangers = homeless.filter((node) => !homes.has(node.id))
  if (strangers.length) {
    const unplaced = new Set(strangers)
    const settled = nodes.filter((node) => !unplaced.has(node)).map((node) => ({ ...node, ...homes.get(node.id) }))
    const left = settled.length ? Math.min(...settled.map((node) => node.x)) : 0
    const top = settled.length ? Math.max(...settled.map((node) => node.y + node.h)) + 2 * GRID : 0
    const beside = settled.length ? strangers.filter((node) => node.kind === 'trigger') : []
    besides(beside, settled, homes)
    for (const place of layout(layoutInput(strangers.filter((node) => !beside.includes(node)), edges))) {
      homes.set(place.id, { x: snap(left + place.x), y: snap(top + place.y) })
    }
  }
  for (const node of homeless) Object.assign(node, homes.get(node.id))
  return nodes
}

/** Triggers stand before what they start, one below the other. */
function besides(triggers: readonly NodeShape[], settled: readonly NodeShape[], homes: Map<string, Point>): void {
  let left = Infinity
  let top = Infinity
  for (const node of settled) if (node.x < left || (node.x === left && node.y < top)) [left, top] = [node.x, node.y]
  for (const node of triggers) {
    homes.set(node.id, { x: snap(left - node.w - 100), y: snap(top) })
    top += node.h + 2 * GRID
  }
}

export function layoutInput(nodes: readonly NodeShape[], edges: readonly EdgeShape[]): LayoutInput {
  const index = new Map(nodes.map((node, at) => [node.id, at]))
  const links = edges.flatMap((edge) => {
    const from = index.get(edge.from)
    const to = index.get(edge.to)
    return from !== undefined && to !== undefined ? [[from, to] as const] : []
  })
  return { nodes: nodes.map(({ id, w, h }) => ({ id, w, h })), links }
}
