/** Which part of the world is seen, and how large: all conversions between screen and world. */

import type { Point, Rect } from './shapes'

export const MIN_ZOOM = 0.05
export const MAX_ZOOM = 2.5

export interface View {
  /** The world's point at the left upper corner of the screen. */
  x: number
  y: number
  zoom: number
}

export interface Size {
  w: number
  h: number
}

export function toScreen(view: View, point: Point): Point {
  return { x: (point.x - view.x) * view.zoom, y: (point.y - view.y) * view.zoom }
}

export function toWorld(view: View, point: Point): Point {
  return { x: point.x / view.zoom + view.x, y: point.y / view.zoom + view.y }
}

/** What is seen of the world. */
export function seen(view: View, size: Size): Rect {
  return { x: view.x, y: view.y, w: size.w / view.zoom, h: size.h / view.zoom }
}

/** Moved by so many pixels of the screen. */
export function panned(view: View, dx: number, dy: number): View {
  return { ...view, x: view.x - dx / view.zoom, y: view.y - dy / view.zoom }
}

export function clampZoom(zoom: number): number {
  return Math.min(MAX_ZOOM, Math.max(MIN_ZOOM, zoom))
}

/** Zoomed by a factor while the world's point under `at` (on the screen) stays where it is. */
export function zoomed(view: View, at: Point, factor: number): View {
  const zoom = clampZoom(view.zoom * factor)
  const fixed = toWorld(view, at)
  return { x: fixed.x - at.x / zoom, y: fixed.y - at.y / zoom, zoom }
}

/** The view in which a part of the world fills the screen; it is never blown up beyond `most`. */
export function fitted(part: Rect, size: Size, margin = 60, most = 1): View {
  const room = { w: Math.max(40, size.w - 2 * margin), h: Math.max(40, size.h - 2 * margin) }
  const zoom = clampZoom(Math.min(room.w / Math.max(1, part.w), room.h / Math.max(1, part.h), most))
  return centred({ x: part.x + part.w / 2, y: part.y + part.h / 2 }, zoom, size)
}

export function centred(on: Point, zoom: number, size: Size): View {
  return { x: on.x - size.w / zoom / 2, y: on.y - size.h / zoom / 2, zoom }
}

/** Moved as little as is needed for a part of the world to be seen as a whole, if it fits. */
export function revealing(view: View, part: Rect, size: Size, margin = 40): View {
  const window = seen(view, size)
  const gap = margin / view.zoom
  const shift = (start: number, length: number, from: number, room: number): number => {
    if (start - gap < from) return start - gap - from
    if (start + length + gap > from + room) return Math.min(start - gap - from, start + length + gap - from - room)
    return 0
  }
  return {
    ...view,
    x: view.x + shift(part.x, part.w, window.x, window.w),
    y: view.y + shift(part.y, part.h, window.y, window.h),
  }
}

/** Moved back as far as is needed for some of what there is to stay in sight. */
export function kept(view: View, all: Rect | null, size: Size, least = 120): View {
  if (!all || !size.w) return view
  const edge = least / view.zoom
  const clamp = (value: number, low: number, high: number): number => Math.min(Math.max(value, low), Math.max(low, high))
  return {
    ...view,
    x: clamp(view.x, all.x + Math.min(edge, all.w) - size.w / view.zoom, all.x + all.w - Math.min(edge, all.w)),
    y: clamp(view.y, all.y + Math.min(edge, all.h) - size.h / view.zoom, all.y + all.h - Math.min(edge, all.h)),
  }
}
