/**
 * Auto layout: ranks by the longest way, order within a rank by barycentres, rows packed from above.
 *
 * Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures" (1981), without
 * dummy nodes: 5,000 nodes take a tenth of a second, and edges are curves that pass behind the cards anyway.
 */

import { GRID, snap } from './shapes'

export interface LayoutNode {
  id: string
  w: number
  h: number
}

export interface LayoutInput {
  nodes: readonly LayoutNode[]
  /** Pairs of indexes into `nodes`. */
  links: readonly (readonly [number, number])[]
}

export interface Placed {
  id: string
  x: number
  y: number
}

const GAP_X = 80
const GAP_Y = 40
const SWEEPS = 8

export function layout({ nodes, links }: LayoutInput): Placed[] {
  const count = nodes.length
  const out: number[][] = Array.from({ length: count }, () => [])
  const into: number[][] = Array.from({ length: count }, () => [])
  for (const [from, to] of links) {
    if (from === to) continue
    out[from]!.push(to)
    into[to]!.push(from)
  }
  const rank = ranks(count, out, into)
  const rows: number[][] = []
  for (let node = 0; node < count; node++) (rows[rank[node]!] ??= []).push(node)
  const packed = rows.filter((row) => row !== undefined)
  order(packed, out, into)
  return place(packed, nodes, out, into)
}

/** The rank of each node: one more than the largest before it. Nodes of a circle get the rank they are met at. */
function ranks(count: number, out: number[][], into: number[][]): Int32Array {
  const rank = new Int32Array(count)
  const open = Int32Array.from(into, (list) => list.length)
  const queue: number[] = []
  const done = new Uint8Array(count)
  const take = (node: number): void => {
    done[node] = 1
    queue.push(node)
  }
  for (let node = 0; node < count; node++) if (open[node] === 0) take(node)
  let head = 0
  let rest = 0
  for (;;) {
    for (; head < queue.length; head++) {
      const node = queue[head]!
      for (const next of out[node]!) {
        if (done[next]) continue
        rank[next] = Math.max(rank[next]!, rank[node]! + 1)
        open[next]!--
        if (open[next] === 0) take(next)
      }
    }
    while (rest < count && done[rest]) rest++
    if (rest === count) break
    take(rest)
  }
  pull(queue, rank, out, into)
  return rank
}

/** Nodes that nothing leads to stand right before what they lead to, rather than far left. */
function pull(queue: readonly number[], rank: Int32Array, out: number[][], into: number[][]): void {
  for (const node of queue) {
    if (into[node]!.length || !out[node]!.length) continue
    let nearest = Infinity
    for (const next of out[node]!) nearest = Math.min(nearest, rank[next]!)
    rank[node] = Math.max(0, nearest - 1)
  }
}

function order(rows: number[][], out: number[][], into: number[][]): void {
  const at = new Float64Array(out.length)
  const note = (row: number[]): void => row.forEach((node, index) => (at[node] = index))
  rows.forEach(note)
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const down = sweep % 2 === 0
    const near = down ? into : out
    for (let step = 1; step < rows.length; step++) {
      const row = rows[down ? step : rows.length - 1 - step]!
      const middle = new Map(row.map((node) => [node, barycentre(near[node]!, at, at[node]!)]))
      row.sort((a, b) => middle.get(a)! - middle.get(b)! || at[a]! - at[b]!)
      note(row)
    }
  }
}

function barycentre(near: readonly number[], at: Float64Array, alone: number): number {
  if (!near.length) return alone
  let sum = 0
  for (const node of near) sum += at[node]!
  return sum / near.length
}

/** Coordinates: columns by rank, each node as near to the middle of what leads to it as its neighbours allow. */
function place(rows: number[][], nodes: readonly LayoutNode[], out: number[][], into: number[][]): Placed[] {
  const y = new Float64Array(nodes.length)
  const left: number[] = []
  let x = 0
  for (const row of rows) {
    left.push(x)
    x += Math.max(...row.map((node) => nodes[node]!.w)) + GAP_X
    let top = 0
    for (const node of row) {
      y[node] = top
      top += nodes[node]!.h + GAP_Y
    }
  }
  for (let pass = 0; pass < 4; pass++) {
    const forward = pass % 2 === 0
    for (let step = 0; step < rows.length; step++) {
      const row = rows[forward ? step : rows.length - 1 - step]!
      settle(row, nodes, y, forward ? into : out)
    }
  }
  const lowest = Math.min(0, ...rows.map((row) => y[row[0]!]!))
  return rows.flatMap((row, index) =>
    row.map((node) => ({ id: nodes[node]!.id, x: snap(left[index]!, GRID), y: snap(y[node]! - lowest, GRID) })),
  )
}

/** Move a row's nodes towards the middle of their neighbours without overlapping, keeping their order. */
function settle(row: readonly number[], nodes: readonly LayoutNode[], y: Float64Array, near: number[][]): void {
  const wish = row.map((node) => {
    const others = near[node]!
    if (!others.length) return y[node]!
    let sum = 0
    for (const other of others) sum += y[other]! + nodes[other]!.h / 2
    return sum / others.length - nodes[node]!.h / 2
  })
  // Blocks of nodes that would overlap share the mean of their wishes (pool adjacent violators).
  const blocks: { sum: number; count: number; offset: number; members: number[] }[] = []
  row.forEach((node, index) => {
    let block = { sum: wish[index]!, count: 1, offset: nodes[node]!.h + GAP_Y, members: [node] }
    for (let before = blocks.at(-1); before; before = blocks.at(-1)) {
      if (before.sum / before.count + before.offset <= block.sum / block.count) break
      blocks.pop()
      block = {
        sum: before.sum + block.sum - before.offset * block.count,
        count: before.count + block.count,
        offset: before.offset + block.offset,
        members: [...before.members, ...block.members],
      }
    }
    blocks.push(block)
  })
  for (const block of blocks) {
    let top = block.sum / block.count
    for (const node of block.members) {
      y[node] = top
      top += nodes[node]!.h + GAP_Y
    }
  }
}
