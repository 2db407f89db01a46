/** What lies under a point of the world: ports before nodes, nodes before edges, edges before groups. */

import { distanceTo } from './routing'
import type { PlacedEdge, PlacedGroup, Scene } from './scene'
import { contains, inPoint, outPoint, type NodeShape, type Point } from './shapes'

export type Hit =
  | { on: 'port'; node: NodeShape; port: string }
  | { on: 'input'; node: NodeShape }
  | { on: 'node'; node: NodeShape }
  | { on: 'edge'; edge: PlacedEdge }
  | { on: 'group'; group: PlacedGroup }
  | { on: 'void' }

/** How near counts, in pixels of the screen; fingers are wider than a pointer. */
export const NEAR = { mouse: 9, touch: 20 }

const GROUP_HEAD = 26

export function hit(scene: Scene, at: Point, zoom: number, near = NEAR.mouse): Hit {
  const reach = near / zoom
  const close = scene.nodesWithin({ x: at.x - reach, y: at.y - reach, w: 2 * reach, h: 2 * reach })
  const port = closestPort(close, at, reach)
  if (port) return port
  const under = close.filter((node) => contains(node, at))
  const node = under.at(-1)
  if (node) return { on: 'node', node }
  const edge = edgeAt(scene, at, Math.max(reach, 6 / zoom))
  if (edge) return { on: 'edge', edge }
  const group = scene.groups.find((one) => contains({ ...one, h: GROUP_HEAD }, at))
  return group ? { on: 'group', group } : { on: 'void' }
}

function closestPort(nodes: readonly NodeShape[], at: Point, reach: number): Hit | null {
  let best: Hit | null = null
  let nearest = reach
  for (const node of nodes) {
    for (const port of node.ports) {
      const distance = gap(outPoint(node, port), at)
      if (distance <= nearest) [nearest, best] = [distance, { on: 'port', node, port }]
    }
    if (node.hasInput) {
      const distance = gap(inPoint(node), at)
      if (distance < nearest) [nearest, best] = [distance, { on: 'input', node }]
    }
  }
  return best
}

function gap(a: Point, b: Point): number {
  return Math.hypot(a.x - b.x, a.y - b.y)
}

/** The nearest edge that a person can take hold of; dashed links of triggers are none. */
export function edgeAt(scene: Scene, at: Point, reach: number): PlacedEdge | null {
  let best: PlacedEdge | null = null
  let nearest = reach
  for (const edge of scene.edges) {
    if (edge.shape.index < 0 || !contains(edge.bounds, at)) continue
    const distance = distanceTo(edge.curve, at)
    if (distance <= nearest) [nearest, best] = [distance, edge]
  }
  return best
}

/** The node that a wire let go at this point would lead to: its whole card counts, and a little beyond. */
export function dropTarget(scene: Scene, at: Point, from: string, near: number): NodeShape | null {
  const part = { x: at.x - near, y: at.y - near, w: 2 * near, h: 2 * near }
  const fit = scene.nodesWithin(part).filter((node) => node.hasInput && node.id !== from)
  return fit.find((node) => contains(node, at)) ?? fit.at(-1) ?? null
}
