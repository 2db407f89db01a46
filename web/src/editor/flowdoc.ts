/**
 * The flow that is being edited, as the JSON that it is, and every change that can be made to it.
 *
 * A change gives a new flow and leaves the old one alone (parts that did not change are shared), so that undoing is
 * going back to an older value. A graph is found by its path: `[]` is the flow itself, `['loop']` the body of the
 * node `loop`.
 */

export interface FlowNode {
  id: string
  type: string
  config?: Record<string, unknown>
  name?: string
  retry?: Record<string, unknown> | null
  timeout?: number | string | null
  needs?: string | string[] | null
  join?: 'all' | 'any'
  on_crash?: string | null
  disabled?: boolean
  position?: { x: number; y: number } | null
  notes?: string
}

export interface FlowEdge {
  from: string
  to: string
  port?: string
  condition?: string
}

export interface FlowTrigger {
  id: string
  type: string
  config?: Record<string, unknown>
  name?: string
  starts_runs?: boolean
  disabled?: boolean
  position?: { x: number; y: number } | null
}

export interface FlowGroup {
  id: string
  name: string
  nodes: string[]
  color?: string
}

export interface Graph {
  nodes: FlowNode[]
  edges?: FlowEdge[]
}

export interface FlowDoc extends Graph {
  name: string
  triggers?: FlowTrigger[]
  settings?: Record<string, unknown>
  description?: string
  spec?: string
  tags?: string[]
  groups?: FlowGroup[]
}

export type Path = readonly string[]

export interface Place {
  x: number
  y: number
}

/** Triggers share the canvas with nodes but not their ids: this is how they are named there. */
export const TRIGGER = 'trigger:'

export function isTrigger(shapeId: string): boolean {
  return shapeId.startsWith(TRIGGER)
}

export function triggerId(shapeId: string): string {
  return shapeId.slice(TRIGGER.length)
}

/** The graph at a path; an empty one where there is none. */
export function graphAt(doc: FlowDoc, path: Path): Graph {
  let graph: Graph = doc
  for (const id of path) {
    const body = (graph.nodes ?? []).find((node) => node.id === id)?.config?.body as Graph | undefined
    if (!body || !Array.isArray(body.nodes)) return { nodes: [], edges: [] }
    graph = body
  }
  return graph
}

/** The flow with the graph at a path changed. */
export function withGraph(doc: FlowDoc, path: Path, change: (graph: Graph) => Graph): FlowDoc {
  return inside(doc, path, change) as FlowDoc
}

function inside(graph: Graph, path: Path, change: (graph: Graph) => Graph): Graph {
  const [id, ...rest] = path
  if (id === undefined) return change(graph)
  return {
    ...graph,
    nodes: graph.nodes.map((node) => {
      if (node.id !== id) return node
      const body = (node.config?.body as Graph | undefined) ?? { nodes: [], edges: [] }
      return { ...node, config: { ...node.config, body: inside(body, rest, change) } }
    }),
  }
}

/** An id that is not taken: the wanted one, or with the next free number. */
export function freeId(wanted: string, taken: Iterable<string>): string {
  const used = new Set(taken)
  const base = wanted.replace(/[^A-Za-z0-9_.-]+/g, '_').replace(/^[^A-Za-z0-9_]+/, '') || 'node'
  if (!used.has(base)) return base.slice(0, 64)
  for (let number = 2; ; number++) {
    const id = `${base.slice(0, 58)}_${number}`
    if (!used.has(id)) return id
  }
}

export function addNode(graph: Graph, node: FlowNode, from?: { node: string; port: string }): Graph {
  const edges = graph.edges ?? []
  return {
    ...graph,
    nodes: [...graph.nodes, node],
    edges: from ? [...edges, edgeOf(from.node, from.port, node.id)] : edges,
  }
}

export function edgeOf(from: string, port: string, to: string): FlowEdge {
  return port === 'out' ? { from, to } : { from, to, port }
}

export function portOf(edge: FlowEdge): string {
  return edge.port || 'out'
}

/** Why these may not be linked, or nothing. */
export function linkFault(graph: Graph, from: string, port: string, to: string): string {
  if (from === to) return 'A node cannot lead to itself.'
  const edges = graph.edges ?? []
  if (edges.some((edge) => edge.from === from && edge.to === to && portOf(edge) === port)) return 'They are linked already.'
  const next = new Map<string, string[]>()
  for (const edge of edges) next.set(edge.from, [...(next.get(edge.from) ?? []), edge.to])
  const open = [to]
  const met = new Set(open)
  for (let id = open.pop(); id !== undefined; id = open.pop()) {
    if (id === from) return 'That would be a circle. To repeat something, use “For each”.'
    for (const other of next.get(id) ?? []) {
      if (!met.has(other)) {
        met.add(other)
        open.push(other)
      }
    }
  }
  return ''
}

export function connect(graph: Graph, from: string, port: string, to: string): Graph {
  return { ...graph, edges: [...(graph.edges ?? []), edgeOf(from, port, to)] }
}

export function setEdge(graph: Graph, index: number, change: Partial<FlowEdge>): Graph {
  const edges = (graph.edges ?? []).map((edge, at) => {
    if (at !== index) return edge
    const next = { ...edge, ...change }
    if (!next.condition) delete next.condition
    if (!next.port || next.port === 'out') delete next.port
    return next
  })
  return { ...graph, edges }
}

export function setNode(graph: Graph, id: string, change: Partial<FlowNode>): Graph {
  return { ...graph, nodes: graph.nodes.map((node) => (node.id === id ? tidy({ ...node, ...change }, DEFAULTS) : node)) }
}

/** Fields that say nothing are left out of the file. */
const DEFAULTS: Record<string, unknown> = {
  name: '',
  retry: null,
  timeout: null,
  needs: null,
  join: 'all',
  on_crash: null,
  disabled: false,
  notes: '',
  position: null,
  starts_runs: true,
}

function tidy<T extends object>(thing: T, defaults: Record<string, unknown>): T {
  return Object.fromEntries(
    Object.entries(thing).filter(([key, value]) => value !== undefined && !(key in defaults && defaults[key] === value)),
  ) as T
}

export function setTrigger(doc: FlowDoc, id: string, change: Partial<FlowTrigger>): FlowDoc {
  const triggers = (doc.triggers ?? []).map((one) => (one.id === id ? tidy({ ...one, ...change }, DEFAULTS) : one))
  return { ...doc, triggers }
}

/** The flow without these nodes and triggers (by shape id) and edges (by index); their edges and places in groups go too. */
export function remove(doc: FlowDoc, path: Path, shapes: ReadonlySet<string>, edges: ReadonlySet<number>): FlowDoc {
  const next = withGraph(doc, path, (graph) => ({
    ...graph,
    nodes: graph.nodes.filter((node) => !shapes.has(node.id)),
    edges: (graph.edges ?? []).filter((edge, index) => !edges.has(index) && !shapes.has(edge.from) && !shapes.has(edge.to)),
  }))
  if (path.length) return next
  return {
    ...next,
    ...(doc.triggers ? { triggers: doc.triggers.filter((one) => !shapes.has(TRIGGER + one.id)) } : {}),
    ...(doc.groups ? { groups: withoutMembers(doc.groups, shapes) } : {}),
  }
}

function withoutMembers(groups: readonly FlowGroup[], shapes: ReadonlySet<string>): FlowGroup[] {
  return groups
    .map((group) => ({ ...group, nodes: group.nodes.filter((id) => !shapes.has(id)) }))
    .filter((group) => group.nodes.length > 0)
}

/** The nodes taken out of the middle of their chains, and what led to them linked to what they led to. */
export function removeAndHeal(doc: FlowDoc, path: Path, id: string): FlowDoc {
  const graph = graphAt(doc, path)
  const into = (graph.edges ?? []).filter((edge) => edge.to === id)
  const out = (graph.edges ?? []).filter((edge) => edge.from === id && portOf(edge) !== 'error')
  let next = remove(doc, path, new Set([id]), new Set())
  for (const before of into) {
    for (const after of out) {
      next = withGraph(next, path, (now) =>
        linkFault(now, before.from, portOf(before), after.to) ? now : connect(now, before.from, portOf(before), after.to),
      )
    }
  }
  return next
}

/** Put nodes and triggers (by shape id) elsewhere. */
export function moveTo(doc: FlowDoc, path: Path, places: ReadonlyMap<string, Place>): FlowDoc {
  const placed = <T extends { id: string; position?: Place | null }>(thing: T, shape: string): T => {
    const to = places.get(shape)
    return to ? { ...thing, position: { x: Math.round(to.x), y: Math.round(to.y) } } : thing
  }
  const next = withGraph(doc, path, (graph) => ({ ...graph, nodes: graph.nodes.map((node) => placed(node, node.id)) }))
  if (path.length || !doc.triggers) return next
  return { ...next, triggers: doc.triggers.map((one) => placed(one, TRIGGER + one.id)) }
}

/** A node under another id: edges, groups and `steps.…` in the graph's texts follow. */
export function renameNode(doc: FlowDoc, path: Path, before: string, after: string): FlowDoc {
  const next = withGraph(doc, path, (graph) => ({
    ...graph,
    nodes: graph.nodes.map((node) => {
      const config = node.config ? (renamedIn(node.config, before, after) as Record<string, unknown>) : undefined
      return { ...node, id: node.id === before ? after : node.id, ...(config ? { config } : {}) }
    }),
    edges: (graph.edges ?? []).map((edge) => ({
      ...edge,
      from: edge.from === before ? after : edge.from,
      to: edge.to === before ? after : edge.to,
      ...(edge.condition ? { condition: renamedIn(edge.condition, before, after) as string } : {}),
    })),
  }))
  if (path.length || !doc.groups) return next
  const groups = doc.groups.map((group) => ({ ...group, nodes: group.nodes.map((id) => (id === before ? after : id)) }))
  return { ...next, groups }
}

function renamedIn(value: unknown, before: string, after: string): unknown {
  if (typeof value === 'string') return renamedText(value, before, after)
  if (Array.isArray(value)) return value.map((item) => renamedIn(item, before, after))
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, renamedIn(item, before, after)]))
  }
  return value
}

function renamedText(text: string, before: string, after: string): string {
  if (!text.includes(before)) return text
  const old = before.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  const now = /^[A-Za-z_]\w*$/.test(after) ? `steps.${after}` : `steps['${after}']`
  return text
    .replace(new RegExp(`\\bsteps\\.${old}(?![\\w-])`, 'g'), () => now)
    .replace(new RegExp(`\\bsteps\\[(['"])${old}\\1\\]`, 'g'), () => now)
}
