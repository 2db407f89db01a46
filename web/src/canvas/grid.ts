/** A grid over the world that finds the nodes of a place without looking at all of them. */

import { intersects, type Rect } from './shapes'

const CELL = 512

export class Grid<T extends Rect> {
  private readonly cells = new Map<number, T[]>()
  private readonly wide: T[] = []

  constructor(things: Iterable<T>) {
    for (const thing of things) this.add(thing)
  }

  add(thing: T): void {
    const [left, top, right, bottom] = cellsOf(thing)
    // Whatever covers very many cells is looked at each time instead.
    if ((right - left + 1) * (bottom - top + 1) > 64) {
      this.wide.push(thing)
      return
    }
    for (let cx = left; cx <= right; cx++) {
      for (let cy = top; cy <= bottom; cy++) {
        const key = keyOf(cx, cy)
        const cell = this.cells.get(key)
        if (cell) cell.push(thing)
        else this.cells.set(key, [thing])
      }
    }
  }

  /** Take a thing out that was added with exactly this place. */
  remove(thing: T, place: Rect): void {
    const [left, top, right, bottom] = cellsOf(place)
    drop(this.wide, thing)
    for (let cx = left; cx <= right; cx++) {
      for (let cy = top; cy <= bottom; cy++) {
        const cell = this.cells.get(keyOf(cx, cy))
        if (cell) drop(cell, thing)
      }
    }
  }

  /** All things that overlap a part of the world, each once. */
  within(part: Rect): T[] {
    const [left, top, right, bottom] = cellsOf(part)
    const found: T[] = this.wide.filter((thing) => intersects(thing, part))
    if ((right - left + 1) * (bottom - top + 1) > this.cells.size) {
      const all = new Set<T>()
      for (const cell of this.cells.values()) for (const thing of cell) if (intersects(thing, part)) all.add(thing)
      return [...found, ...all]
    }
    const met = new Set<T>()
    for (let cx = left; cx <= right; cx++) {
      for (let cy = top; cy <= bottom; cy++) {
        for (const thing of this.cells.get(keyOf(cx, cy)) ?? []) if (intersects(thing, part)) met.add(thing)
      }
    }
    return [...found, ...met]
  }
}

function cellsOf(rect: Rect): [number, number, number, number] {
  return [
    Math.floor(rect.x / CELL),
    Math.floor(rect.y / CELL),
    Math.floor((rect.x + rect.w) / CELL),
    Math.floor((rect.y + rect.h) / CELL),
  ]
}

function keyOf(cx: number, cy: number): number {
  return cx * 0x200000 + cy
}

function drop<T>(list: T[], thing: T): void {
  const at = list.indexOf(thing)
  if (at >= 0) list.splice(at, 1)
}
