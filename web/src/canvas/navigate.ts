/** Where an arrow key leads: along edges to the right and left, to neighbours up and down. */

import type { Scene } from './scene'
import type { NodeShape, Point } from './shapes'

export type Arrow = 'ArrowLeft' | 'ArrowRight' | 'ArrowUp' | 'ArrowDown'

/** The node that an arrow key leads to from `from`; without one, the first of the flow. */
export function neighbour(scene: Scene, from: string | null, arrow: Arrow): NodeShape | null {
  const here = from === null ? undefined : scene.byId.get(from)
  if (!here) return first(scene)
  if (arrow === 'ArrowRight' || arrow === 'ArrowLeft') {
    const along = linked(scene, here, arrow)
    if (along.length) return closest(along, here)
  }
  return closest(towards(scene, here, arrow), here, arrow)
}

/** Where reading begins: the leftmost, then the uppermost. */
export function first(scene: Scene): NodeShape | null {
  return [...scene.nodes].sort((a, b) => a.x - b.x || a.y - b.y)[0] ?? null
}

function linked(scene: Scene, here: NodeShape, arrow: Arrow): NodeShape[] {
  const forward = arrow === 'ArrowRight'
  return scene
    .edgesOf(here.id)
    .filter((edge) => (forward ? edge.source : edge.target) === here)
    .map((edge) => (forward ? edge.target : edge.source))
}

function towards(scene: Scene, here: NodeShape, arrow: Arrow): NodeShape[] {
  const middle = centre(here)
  return scene.nodes.filter((node) => {
    const at = centre(node)
    if (node === here) return false
    if (arrow === 'ArrowUp') return at.y < middle.y && Math.abs(at.x - middle.x) < here.w * 1.5
    if (arrow === 'ArrowDown') return at.y > middle.y && Math.abs(at.x - middle.x) < here.w * 1.5
    return arrow === 'ArrowLeft' ? node.x + node.w <= here.x : node.x >= here.x + here.w
  })
}

function centre(node: NodeShape): Point {
  return { x: node.x + node.w / 2, y: node.y + node.h / 2 }
}

/** The nearest; what lies off the arrow's direction counts as further away. */
function closest(nodes: readonly NodeShape[], here: NodeShape, arrow?: Arrow): NodeShape | null {
  const middle = centre(here)
  const upright = arrow === 'ArrowUp' || arrow === 'ArrowDown'
  const cost = (node: NodeShape): number => {
    const at = centre(node)
    const dx = Math.abs(at.x - middle.x)
    const dy = Math.abs(at.y - middle.y)
    if (!arrow) return dy * 2 + dx
    return upright ? dy + dx * 2 : dx + dy * 2
  }
  let best: NodeShape | null = null
  for (const node of nodes) if (!best || cost(node) < cost(best)) best = node
  return best
}
