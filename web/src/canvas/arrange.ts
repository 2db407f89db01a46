/** Aligning and distributing what is selected: new places by id. */

import { around, snap, type NodeShape, type Point } from './shapes'

export type Alignment = 'left' | 'centre' | 'right' | 'top' | 'middle' | 'bottom'

export function aligned(nodes: readonly NodeShape[], how: Alignment): Map<string, Point> {
  const box = around(nodes)
  if (!box) return new Map()
  const place = (node: NodeShape): Point => {
    switch (how) {
      case 'left':
        return { x: box.x, y: node.y }
      case 'centre':
        return { x: box.x + (box.w - node.w) / 2, y: node.y }
      case 'right':
        return { x: box.x + box.w - node.w, y: node.y }
      case 'top':
        return { x: node.x, y: box.y }
      case 'middle':
        return { x: node.x, y: box.y + (box.h - node.h) / 2 }
      case 'bottom':
        return { x: node.x, y: box.y + box.h - node.h }
    }
  }
  return new Map(nodes.map((node) => [node.id, place(node)]))
}

/** The same room between neighbours; the outermost ones stay. */
export function distributed(nodes: readonly NodeShape[], along: 'x' | 'y'): Map<string, Point> {
  if (nodes.length < 3) return new Map()
  const size = along === 'x' ? 'w' : 'h'
  const order = [...nodes].sort((a, b) => a[along] - b[along])
  const first = order[0]!
  const last = order.at(-1)!
  const taken = order.slice(0, -1).reduce((sum, node) => sum + node[size], 0)
  const room = (last[along] - first[along] - taken) / (order.length - 1)
  let at = first[along]
  const places = new Map<string, Point>()
  for (const node of order) {
    places.set(node.id, along === 'x' ? { x: at, y: node.y } : { x: node.x, y: at })
    at += node[size] + room
  }
  return places
}

/** A place near `wanted` that no node covers: further down, step by step. */
export function freePlace(nodes: readonly NodeShape[], wanted: Point, w: number, h: number): Point {
  const at = { x: snap(wanted.x), y: snap(wanted.y) }
  const taken = (): boolean =>
    nodes.some((node) => node.x < at.x + w + 20 && node.x + node.w + 20 > at.x && node.y < at.y + h + 20 && node.y + node.h + 20 > at.y)
  while (taken()) at.y += 20
  return at
}
