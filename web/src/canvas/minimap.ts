/** The whole scene as a small map: every node a box, what is seen a frame. Boxes are painted once, the frame often. */

import type { Scene } from './scene'
import type { Point, Rect } from './shapes'
import type { Theme } from './theme'
import type { Size } from './viewport'

const EDGE = 6

/** How the world lies on the map. */
export interface MapScale {
  scale: number
  origin: Point
}

/** The scale in which both the scene and what is seen have room. */
export function mapScale(all: Rect | null, window: Rect, size: Size): MapScale {
  const part = all ?? window
  const left = Math.min(part.x, window.x)
  const top = Math.min(part.y, window.y)
  const width = Math.max(part.x + part.w, window.x + window.w) - left
  const height = Math.max(part.y + part.h, window.y + window.h) - top
  const scale = Math.min((size.w - 2 * EDGE) / width, (size.h - 2 * EDGE) / height)
  return { scale, origin: { x: left - (size.w / scale - width) / 2, y: top - (size.h / scale - height) / 2 } }
}

export class Minimap {
  private boxes: HTMLCanvasElement | null = null
  private drawn: { scene: Scene; picked: ReadonlySet<string>; theme: Theme; ratio: number; at: MapScale } | null = null

  /** Paint it; returns how the world lies on it. */
  paint(ctx: CanvasRenderingContext2D, theme: Theme, scene: Scene, picked: ReadonlySet<string>, window: Rect, size: Size, ratio: number): MapScale {
    const at = mapScale(scene.bounds(), window, size)
    if (this.isStale({ scene, picked, theme, ratio, at })) this.paintBoxes(theme, scene, picked, size, ratio, at)
    ctx.setTransform(1, 0, 0, 1, 0, 0)
    ctx.clearRect(0, 0, size.w * ratio, size.h * ratio)
    if (this.boxes) ctx.drawImage(this.boxes, 0, 0)
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0)
    ctx.strokeStyle = theme.selected
    ctx.lineWidth = 1.5
    ctx.strokeRect((window.x - at.origin.x) * at.scale, (window.y - at.origin.y) * at.scale, window.w * at.scale, window.h * at.scale)
    return at
  }

  /** Nodes lie elsewhere in the same scene. */
  forget(): void {
    this.drawn = null
  }

  private isStale(now: NonNullable<Minimap['drawn']>): boolean {
    const was = this.drawn
    this.drawn = now
    return (
      was === null || was.scene !== now.scene || was.picked !== now.picked || was.theme !== now.theme || was.ratio !== now.ratio ||
      was.at.scale !== now.at.scale || was.at.origin.x !== now.at.origin.x || was.at.origin.y !== now.at.origin.y
    )
  }

  private paintBoxes(theme: Theme, scene: Scene, picked: ReadonlySet<string>, size: Size, ratio: number, at: MapScale): void {
    const canvas = (this.boxes ??= document.createElement('canvas'))
    canvas.width = Math.round(size.w * ratio)
    canvas.height = Math.round(size.h * ratio)
    const ctx = canvas.getContext('2d')
    if (!ctx) return
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0)
    for (const node of scene.nodes) {
      const own = node.problems ? theme.danger : theme.category(node.kind === 'trigger' ? 'trigger' : node.category)
      ctx.fillStyle = picked.has(node.id) ? theme.selected : own
      const width = Math.max(2, node.w * at.scale)
      ctx.fillRect((node.x - at.origin.x) * at.scale, (node.y - at.origin.y) * at.scale, width, Math.max(1.5, node.h * at.scale))
    }
  }
}
