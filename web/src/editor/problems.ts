/** The engine's faults, each with the place in the flow that it names: which node, edge or trigger, and which field. */

import { graphAt, TRIGGER, type FlowDoc, type Path } from './flowdoc'

export interface Problem {
  path: string
  message: string
}

export interface Fault extends Problem {
  /** The graph it lies in. */
  graph: string[]
  /** The shape id of the node or trigger, or nothing. */
  shape: string
  /** The edge's index, or -1. */
  edge: number
  /** The field within the node, trigger or edge, such as `config.url`. */
  field: string
}

const STEP = /^(nodes|edges|triggers)\[(\d+)\]\.?(.*)$/

/** Where a fault lies. Bodies within nodes are followed: `nodes[2].config.body.nodes[0].config.url`. */
export function located(doc: FlowDoc, problem: Problem): Fault {
  const graph: string[] = []
  let rest = problem.path
  for (;;) {
    const found = STEP.exec(rest)
    if (!found) return { ...problem, graph, shape: '', edge: -1, field: rest }
    const [, list, number, field] = found as unknown as [string, string, string, string]
    const index = Number(number)
    if (list === 'edges') return { ...problem, graph, shape: '', edge: index, field }
    if (list === 'triggers') {
      const id = doc.triggers?.[index]?.id
      return { ...problem, graph, shape: id === undefined ? '' : TRIGGER + id, edge: -1, field }
    }
    const id = graphAt(doc, graph).nodes[index]?.id ?? ''
    const body = field.startsWith('config.body.') ? field.slice('config.body.'.length) : ''
    if (!body || !STEP.test(body)) return { ...problem, graph, shape: id, edge: -1, field }
    graph.push(id)
    rest = body
  }
}

/** How many faults each shape and edge of one graph has; what lies in a body counts for its node. */
export function counted(faults: readonly Fault[], path: Path): { shapes: Map<string, number>; edges: Map<number, number> } {
  const shapes = new Map<string, number>()
  const edges = new Map<number, number>()
  for (const fault of faults) {
    if (!path.every((id, at) => fault.graph[at] === id)) continue
    const deeper = fault.graph[path.length]
    if (deeper !== undefined) add(shapes, deeper)
    else if (fault.edge >= 0) add(edges, fault.edge)
    else if (fault.shape) add(shapes, fault.shape)
  }
  return { shapes, edges }
}

function add<K>(counts: Map<K, number>, key: K): void {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}
