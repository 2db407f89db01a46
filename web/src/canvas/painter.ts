/** Draws a scene on a 2D canvas: edges at any zoom, whole nodes where they are too small for cards. */

import type { ActivityLog } from './activity'
import type { Curve } from './routing'
import { pointAt } from './routing'
import type { PlacedEdge, Scene } from './scene'
import { GRID, intersects, type NodeShape, type Rect } from './shapes'
import type { Theme } from './theme'
import { seen, type Size, type View } from './viewport'

/** From this zoom on nodes are cards of the page; below, the canvas draws them. */
export const CARD_ZOOM = 0.6
/** Below these, edges are straight lines, and nodes are plain boxes without text. */
const CURVE_ZOOM = 0.3
const TEXT_ZOOM = 0.32
const DOTS_ZOOM = 0.45

export interface Wire {
  curve: Curve
  /** Whether it would lead to something if it was let go now. */
  lands: boolean
}

export interface Picture {
  scene: Scene
  view: View
  size: Size
  selected: ReadonlySet<string>
  selectedEdges: ReadonlySet<number>
  hoverEdge: PlacedEdge | null
  target: string | null
  wire: Wire | null
  marquee: Rect | null
  activity: ActivityLog
  /** Milliseconds; moves what flows. Zero keeps it still. */
  now: number
  /** Whether nodes are drawn here although they could be cards (pictures without a page around them). */
  cards: boolean
}

export function paint(ctx: CanvasRenderingContext2D, theme: Theme, picture: Picture, ratio: number): void {
  const { view, size } = picture
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0)
  ctx.clearRect(0, 0, size.w, size.h)
  if (view.zoom >= DOTS_ZOOM) dots(ctx, theme, view, size)
  ctx.setTransform(ratio * view.zoom, 0, 0, ratio * view.zoom, -view.x * ratio * view.zoom, -view.y * ratio * view.zoom)
  const window = seen(view, size)
  groups(ctx, theme, picture, window)
  edges(ctx, theme, picture, window)
  if (!picture.cards) for (const node of picture.scene.nodesWithin(window)) box(ctx, theme, picture, node)
  if (picture.wire) wire(ctx, theme, picture.wire, view.zoom)
  if (picture.marquee) marquee(ctx, theme, picture.marquee, view.zoom)
}

const TILE = 32
let tile: { color: string; canvas: HTMLCanvasElement } | null = null

/** The grid's dots as a pattern: thousands of small rectangles would cost more than all else together. */
function dots(ctx: CanvasRenderingContext2D, theme: Theme, view: View, size: Size): void {
  if (tile?.color !== theme.dots) tile = { color: theme.dots, canvas: dotTile(theme.dots) }
  const pattern = ctx.createPattern(tile.canvas, 'repeat')
  if (!pattern) return
  const step = GRID * (view.zoom < 0.8 ? 2 : 1) * view.zoom
  pattern.setTransform(new DOMMatrix([step / TILE, 0, 0, step / TILE, -(view.x * view.zoom) - step / 2, -(view.y * view.zoom) - step / 2]))
  ctx.fillStyle = pattern
  ctx.fillRect(0, 0, size.w, size.h)
}

function dotTile(color: string): HTMLCanvasElement {
  const canvas = document.createElement('canvas')
  canvas.width = canvas.height = TILE
  const ctx = canvas.getContext('2d')
  if (ctx) {
    ctx.fillStyle = color
    ctx.beginPath()
    ctx.arc(TILE / 2, TILE / 2, 1.6, 0, 2 * Math.PI)
    ctx.fill()
  }
  return canvas
}

function groups(ctx: CanvasRenderingContext2D, theme: Theme, picture: Picture, window: Rect): void {
  for (const group of picture.scene.groups) {
    if (!intersects(group, window)) continue
    const color = theme.category(group.shape.color)
    ctx.globalAlpha = 0.09
    ctx.fillStyle = color
    rounded(ctx, group, 14)
    ctx.fill()
    ctx.globalAlpha = 0.6
    ctx.strokeStyle = color
    ctx.lineWidth = 1 / Math.max(picture.view.zoom, 0.3)
    ctx.stroke()
    ctx.globalAlpha = 1
    if (picture.view.zoom < 0.15) continue
    ctx.fillStyle = theme.text
    ctx.font = `600 ${Math.max(13, 11 / picture.view.zoom)}px ${theme.font}`
    ctx.textBaseline = 'middle'
    ctx.textAlign = 'left'
    ctx.fillText(group.shape.name, group.x + 14, group.y + 18, group.w - 28)
  }
}

/** Edges of one look are one path: a stroke each would cost a hundred times more. */
function edges(ctx: CanvasRenderingContext2D, theme: Theme, picture: Picture, window: Rect): void {
  const looks = new Map<string, PlacedEdge[]>()
  for (const edge of picture.scene.edges) {
    if (!intersects(edge.bounds, window)) continue
    const look = lookOf(picture, edge)
    const list = looks.get(look)
    if (list) list.push(edge)
    else looks.set(look, [edge])
  }
  for (const look of LOOKS) {
    const list = looks.get(look)
    if (list) strokeAll(ctx, theme, picture, look, list)
  }
}

const LOOKS = ['dead', 'trigger', 'plain', 'error', 'removed', 'changed', 'added', 'fired', 'hover', 'selected', 'flows'] as const
type Look = (typeof LOOKS)[number]

function lookOf(picture: Picture, edge: PlacedEdge): Look {
  const { shape } = edge
  if (shape.index >= 0 && picture.selectedEdges.has(shape.index)) return 'selected'
  if (picture.activity.flows(shape.from, shape.port, picture.now)) return 'flows'
  if (edge === picture.hoverEdge) return 'hover'
  if (shape.passage) return shape.passage
  if (shape.problems) return 'error'
  if (shape.diff === 'added' || shape.diff === 'removed' || shape.diff === 'changed') return shape.diff
  if (shape.index < 0) return 'trigger'
  return shape.port === 'error' ? 'error' : 'plain'
}

function colorOf(theme: Theme, look: Look): string {
  const colors: Record<Look, string> = {
    trigger: theme.edgeTrigger,
    plain: theme.edge,
    error: theme.edgeError,
    removed: theme.removed,
    changed: theme.changed,
    added: theme.added,
    hover: theme.selected,
    selected: theme.selected,
    flows: theme.active,
    fired: theme.ok,
    dead: theme.edgeTrigger,
  }
  return colors[look]
}

function strokeAll(
  ctx: CanvasRenderingContext2D,
  theme: Theme,
  picture: Picture,
  look: Look,
  list: readonly PlacedEdge[],
): void {
  const { zoom } = picture.view
  const thick = look === 'plain' || look === 'trigger' || look === 'error' || look === 'dead' ? 1.6 : 2.6
  ctx.strokeStyle = ctx.fillStyle = colorOf(theme, look)
  ctx.lineWidth = Math.max(thick, 0.7 / zoom)
  ctx.globalAlpha = look === 'dead' || (zoom < CURVE_ZOOM && look === 'plain') ? 0.6 : 1
  const dash = look === 'trigger' || look === 'removed' || look === 'dead' ? [6, 6] : look === 'flows' ? [10, 7] : []
  ctx.setLineDash(zoom < CURVE_ZOOM ? [] : dash)
  ctx.lineDashOffset = look === 'flows' ? -picture.now / 18 : 0
  ctx.beginPath()
  for (const { curve } of list) trace(ctx, curve, zoom)
  ctx.stroke()
  ctx.setLineDash([])
  if (zoom >= CURVE_ZOOM) {
    ctx.beginPath()
    for (const { curve } of list) arrow(ctx, curve)
    ctx.fill()
  }
  ctx.globalAlpha = 1
  if (zoom >= CARD_ZOOM) for (const edge of list) if (edge.shape.condition) condition(ctx, theme, edge)
}

function trace(ctx: CanvasRenderingContext2D, curve: Curve, zoom: number): void {
  ctx.moveTo(curve[0], curve[1])
  if (zoom < CURVE_ZOOM) ctx.lineTo(curve[6], curve[7])
  else ctx.bezierCurveTo(curve[2], curve[3], curve[4], curve[5], curve[6], curve[7])
}

function arrow(ctx: CanvasRenderingContext2D, curve: Curve): void {
  const x = curve[6]
  const y = curve[7]
  ctx.moveTo(x - 1, y)
  ctx.lineTo(x - 9, y - 4.5)
  ctx.lineTo(x - 9, y + 4.5)
  ctx.closePath()
}

/** The condition of an edge, as a small label in its middle. */
function condition(ctx: CanvasRenderingContext2D, theme: Theme, edge: PlacedEdge): void {
  const at = pointAt(edge.curve, 0.5)
  const text = short(edge.shape.condition, 26)
  ctx.font = `11px ${theme.font}`
  const width = ctx.measureText(text).width + 14
  ctx.fillStyle = theme.card
  ctx.strokeStyle = theme.cardBorder
  ctx.lineWidth = 1
  rounded(ctx, { x: at.x - width / 2, y: at.y - 10, w: width, h: 20 }, 10)
  ctx.fill()
  ctx.stroke()
  ctx.fillStyle = theme.muted
  ctx.textAlign = 'center'
  ctx.textBaseline = 'middle'
  ctx.fillText(text, at.x, at.y + 0.5)
}

function short(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text
}

/** A node seen from afar. */
function box(ctx: CanvasRenderingContext2D, theme: Theme, picture: Picture, node: NodeShape): void {
  const { zoom } = picture.view
  const accent = theme.category(node.kind === 'trigger' ? 'trigger' : node.category)
  const picked = picture.selected.has(node.id)
  ctx.globalAlpha = node.disabled ? 0.5 : 1
  if (zoom < 0.18) {
    ctx.fillStyle = picked ? theme.selected : (borderOf(theme, picture, node) ?? accent)
    ctx.fillRect(node.x, node.y, node.w, node.h)
    ctx.globalAlpha = 1
    return
  }
  ctx.fillStyle = theme.card
  rounded(ctx, node, 10)
  ctx.fill()
  ctx.strokeStyle = picked ? theme.selected : (borderOf(theme, picture, node) ?? theme.cardBorder)
  ctx.lineWidth = picked || borderOf(theme, picture, node) ? 3 : Math.max(1, 0.6 / zoom)
  ctx.stroke()
  ctx.fillStyle = accent
  ctx.fillRect(node.x + 10, node.y + 14, 6, node.h - 28)
  if (zoom >= TEXT_ZOOM) {
    ctx.fillStyle = theme.text
    ctx.font = `600 17px ${theme.font}`
    ctx.textAlign = 'left'
    ctx.textBaseline = 'middle'
    ctx.fillText(short(node.title, 22), node.x + 28, node.y + node.h / 2, node.w - 40)
  }
  ctx.globalAlpha = 1
}

function borderOf(theme: Theme, picture: Picture, node: NodeShape): string | null {
  if (node.id === picture.target) return theme.selected
  const state = picture.activity.stateOf(node.id, picture.now)
  if (state === 'failed' || node.problems) return theme.danger
  if (state === 'done') return theme.ok
  if (state) return state === 'waiting' ? theme.warn : theme.active
  if (node.diff === 'added') return theme.added
  if (node.diff === 'removed') return theme.removed
  return node.diff === 'changed' || node.diff === 'moved' ? theme.changed : null
}

function wire(ctx: CanvasRenderingContext2D, theme: Theme, wire: Wire, zoom: number): void {
  ctx.strokeStyle = ctx.fillStyle = theme.selected
  ctx.lineWidth = Math.max(2.4, 1.4 / zoom)
  ctx.setLineDash(wire.lands ? [] : [7, 6])
  ctx.beginPath()
  trace(ctx, wire.curve, 1)
  ctx.stroke()
  ctx.setLineDash([])
  ctx.beginPath()
  arrow(ctx, wire.curve)
  ctx.fill()
}

function marquee(ctx: CanvasRenderingContext2D, theme: Theme, rect: Rect, zoom: number): void {
  ctx.strokeStyle = theme.selected
  ctx.lineWidth = 1 / zoom
  ctx.fillStyle = theme.selected
  ctx.globalAlpha = 0.1
  ctx.fillRect(rect.x, rect.y, rect.w, rect.h)
  ctx.globalAlpha = 1
  ctx.strokeRect(rect.x, rect.y, rect.w, rect.h)
}

function rounded(ctx: CanvasRenderingContext2D, rect: Rect, radius: number): void {
  ctx.beginPath()
  ctx.roundRect(rect.x, rect.y, rect.w, rect.h, radius)
}

