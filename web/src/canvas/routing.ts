/** The way an edge takes between two points: a cubic curve that leaves to the right and comes in from the left. */

import type { Point, Rect } from './shapes'

/** Start, two control points, end: x and y of each. */
export type Curve = readonly [number, number, number, number, number, number, number, number]

/** The curve from an output to an input. Edges that lead back swing out far enough to be seen. */
export function curveOf(from: Point, to: Point): Curve {
  const dx = to.x - from.x
  const reach = dx >= 0 ? Math.max(30, dx / 2) : Math.min(320, 60 - dx / 2)
  // Straight back on one line it would run through its own nodes.
  const swing = dx < 0 && Math.abs(to.y - from.y) < 60 ? 90 : 0
  return [from.x, from.y, from.x + reach, from.y + swing, to.x - reach, to.y + swing, to.x, to.y]
}

/** A rectangle that surely holds the curve. */
export function boundsOf(curve: Curve, margin = 8): Rect {
  const left = Math.min(curve[0], curve[2], curve[4], curve[6])
  const right = Math.max(curve[0], curve[2], curve[4], curve[6])
  const top = Math.min(curve[1], curve[3], curve[5], curve[7])
  const bottom = Math.max(curve[1], curve[3], curve[5], curve[7])
  return { x: left - margin, y: top - margin, w: right - left + 2 * margin, h: bottom - top + 2 * margin }
}

/** The point at `t` of 0 to 1. */
export function pointAt(curve: Curve, t: number): Point {
  const u = 1 - t
  const a = u * u * u
  const b = 3 * u * u * t
  const c = 3 * u * t * t
  const d = t * t * t
  return {
    x: a * curve[0] + b * curve[2] + c * curve[4] + d * curve[6],
    y: a * curve[1] + b * curve[3] + c * curve[5] + d * curve[7],
  }
}

/** How far a point lies from the curve, by short straight pieces. */
export function distanceTo(curve: Curve, point: Point, pieces = 24): number {
  let best = Infinity
  let before = pointAt(curve, 0)
  for (let i = 1; i <= pieces; i++) {
    const after = pointAt(curve, i / pieces)
    best = Math.min(best, toSegment(point, before, after))
    before = after
  }
  return best
}

function toSegment(p: Point, a: Point, b: Point): number {
  const dx = b.x - a.x
  const dy = b.y - a.y
  const length = dx * dx + dy * dy
  const t = length === 0 ? 0 : Math.min(1, Math.max(0, ((p.x - a.x) * dx + (p.y - a.y) * dy) / length))
  return Math.hypot(p.x - a.x - t * dx, p.y - a.y - t * dy)
}
