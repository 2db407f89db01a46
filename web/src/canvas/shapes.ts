/** What the canvas draws: plain data, never made reactive. World units are CSS pixels at zoom 1. */

export interface Point {
  x: number
  y: number
}

export interface Rect {
  x: number
  y: number
  w: number
  h: number
}

/** What a version or draft comparison says of a node or edge. */
export type DiffMark = '' | 'added' | 'removed' | 'changed' | 'moved'

/** What a run is doing at a node. */
export type Activity = '' | 'running' | 'waiting' | 'done' | 'failed'

export interface NodeShape extends Rect {
  id: string
  kind: 'node' | 'trigger'
  type: string
  title: string
  subtitle: string
  icon: string
  category: string
  /** Output ports in order; `error` is the last one of a node, a trigger has `out` alone. */
  ports: readonly string[]
  hasInput: boolean
  disabled: boolean
  hasBody: boolean
  /** How many faults lie in it. */
  problems: number
  /** Hosts that see what it works on, since it asks models there. */
  sendsTo?: readonly string[]
  diff: DiffMark
}

export interface EdgeShape {
  /** Index in the flow's `edges`, or -1 for the dashed link from a trigger to a first node. */
  index: number
  from: string
  to: string
  port: string
  condition: string
  diff: DiffMark
  problems: number
  /** Whether the run that is looked at went this way. */
  passage?: 'fired' | 'dead'
}

export interface GroupShape {
  id: string
  name: string
  color: string
  nodes: readonly string[]
}

export interface PortRef {
  node: string
  port: string
}

export const GRID = 20
export const NODE_WIDTH = 220
export const ERROR_PORT = 'error'

const PORT_STEP = 22
const MIN_HEIGHT = 60

/** How high a node with these ports is, in world units. */
export function nodeHeight(ports: readonly string[]): number {
  return Math.max(MIN_HEIGHT, PORT_STEP * mainPorts(ports) + 34)
}

function mainPorts(ports: readonly string[]): number {
  return Math.max(1, ports.length - (ports.includes(ERROR_PORT) ? 1 : 0))
}

/** The offset of an output port from its node's upper edge. */
export function portOffset(ports: readonly string[], port: string, height: number): number {
  if (port === ERROR_PORT) return height - 11
  const count = mainPorts(ports)
  const index = Math.max(0, ports.indexOf(port))
  const room = ports.includes(ERROR_PORT) ? height - 18 : height
  return (room - PORT_STEP * count) / 2 + PORT_STEP * index + PORT_STEP / 2
}

export function outPoint(node: NodeShape, port: string): Point {
  return { x: node.x + node.w, y: node.y + portOffset(node.ports, port, node.h) }
}

export function inPoint(node: NodeShape): Point {
  return { x: node.x, y: node.y + node.h / 2 }
}

export function intersects(a: Rect, b: Rect): boolean {
  return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h
}

export function contains(rect: Rect, point: Point): boolean {
  return point.x >= rect.x && point.x <= rect.x + rect.w && point.y >= rect.y && point.y <= rect.y + rect.h
}

/** The smallest rectangle around all of these, or null for none. */
export function around(rects: Iterable<Rect>): Rect | null {
  let left = Infinity
  let top = Infinity
  let right = -Infinity
  let bottom = -Infinity
  for (const rect of rects) {
    left = Math.min(left, rect.x)
    top = Math.min(top, rect.y)
    right = Math.max(right, rect.x + rect.w)
    bottom = Math.max(bottom, rect.y + rect.h)
  }
  return left === Infinity ? null : { x: left, y: top, w: right - left, h: bottom - top }
}

/** The rectangle between two corners, in any order. */
export function spanned(a: Point, b: Point): Rect {
  return { x: Math.min(a.x, b.x), y: Math.min(a.y, b.y), w: Math.abs(a.x - b.x), h: Math.abs(a.y - b.y) }
}

export function snap(value: number, grid = GRID): number {
  return Math.round(value / grid) * grid
}
