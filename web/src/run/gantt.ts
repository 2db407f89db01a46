/** The bars of a run's chart: rows by when they began, on a scale in which long waits are folded. */

import type { Phase, Timeline, Track } from './timeline'

export interface Bar {
  phase: Phase
  attempt: number
  /** Parts of the width, from 0 to 1. */
  left: number
  width: number
  /** Seconds since the run was accepted. */
  from: number
  to: number
  open: boolean
}

export interface Row {
  node: string
  track: Track
  bars: readonly Bar[]
  /** Seconds in which it really ran. */
  busy: number
}

export interface Fold {
  left: number
  width: number
  /** Seconds that are not shown at their length. */
  seconds: number
}

export interface Chart {
  rows: readonly Row[]
  folds: readonly Fold[]
  scale: Scale
}

/** A part of the time line: `from` to `to` seconds at `left` to `right` of the width. */
interface Piece {
  from: number
  to: number
  left: number
  right: number
  folded: boolean
}

/** A wait is folded where it is longer than this many times all the rest together, and shown as long as this part of it. */
const FOLD_BEYOND = 0.5
const FOLDED_TO = 0.12

export class Scale {
  constructor(readonly pieces: readonly Piece[]) {}

  /** Where a moment lies, from 0 to 1. */
  at(seconds: number): number {
    const piece = this.pieces.find((one) => seconds <= one.to) ?? this.pieces.at(-1)
    if (!piece) return 0
    const part = piece.to > piece.from ? (seconds - piece.from) / (piece.to - piece.from) : 0
    return clamp(piece.left + clamp(part) * (piece.right - piece.left))
  }

  /** The moment at a place. */
  seconds(part: number): number {
    const piece = this.pieces.find((one) => part <= one.right) ?? this.pieces.at(-1)
    if (!piece) return 0
    const inside = piece.right > piece.left ? (part - piece.left) / (piece.right - piece.left) : 0
    return piece.from + clamp(inside) * (piece.to - piece.from)
  }

  /** Round moments to write below the chart, at least `gap` (a part of the width) from one another. */
  ticks(gap: number): number[] {
    const found: number[] = []
    let last = -Infinity
    for (const piece of this.pieces) {
      if (piece.folded) continue
      const room = piece.right - piece.left
      const step = roundStep(((piece.to - piece.from) * gap) / Math.max(room, 1e-9))
      for (let time = Math.ceil(piece.from / step - 1e-9) * step; time <= piece.to + 1e-12; time += step) {
        const at = this.at(time)
        if (at - last < gap * 0.95) continue
        found.push(Math.max(0, Number(time.toPrecision(12))))
        last = at
      }
    }
    return found
  }
}

function clamp(part: number): number {
  return Math.min(1, Math.max(0, part))
}

/** The next of 1, 2, 5 times a power of ten; of minutes and hours beyond. */
export function roundStep(seconds: number): number {
  if (!(seconds > 0)) return 1
  const long = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400]
  if (seconds > 30) return long.find((one) => one >= seconds) ?? Math.ceil(seconds / 86_400) * 86_400
  const power = 10 ** Math.floor(Math.log10(seconds))
  const step = [1, 2, 5, 10].find((one) => one * power >= seconds * (1 - 1e-9)) ?? 10
  return Math.min(step * power, 30)
}

/** The chart of a run; `folding`: long waits are made short. */
export function chartOf(timeline: Timeline, folding = true): Chart {
  const scale = scaleOf(timeline, folding)
  const begun = timeline.tracks.filter((track) => track.spans.some((span) => span.phase !== 'kept'))
  const rows = [...begun]
    .sort((a, b) => a.spans[0]!.from - b.spans[0]!.from)
    .map((track) => {
      const bars = track.spans.map((span): Bar => {
        const to = span.to ?? timeline.length
        const left = scale.at(span.from)
        return {
          phase: span.phase,
          attempt: span.attempt,
          left,
          width: scale.at(to) - left,
          from: span.from,
          to,
          open: span.to === null,
        }
      })
      const busy = bars.reduce((sum, bar) => sum + (bar.phase === 'running' ? bar.to - bar.from : 0), 0)
      return { node: track.node, track, bars, busy }
    })
  const folds = scale.pieces
    .filter((piece) => piece.folded)
    .map((piece) => ({ left: piece.left, width: piece.right - piece.left, seconds: piece.to - piece.from }))
  return { rows, folds, scale }
}

function scaleOf(timeline: Timeline, folding: boolean): Scale {
  const length = Math.max(timeline.length, 1e-6)
  const plain = new Scale([{ from: 0, to: length, left: 0, right: 1, folded: false }])
  if (!folding) return plain
  const busy = busyStretches(timeline, length)
  const active = busy.reduce((sum, [from, to]) => sum + (to - from), 0)
  const idle = gaps(busy, length).filter(([from, to]) => to - from > Math.max(FOLD_BEYOND * active, 1))
  if (!idle.length) return plain
  const rest = length - idle.reduce((sum, [from, to]) => sum + (to - from), 0)
  const folded = Math.min(FOLDED_TO, 0.5 / idle.length)
  const room = 1 - folded * idle.length
  const pieces: Piece[] = []
  let time = 0
  let left = 0
  const add = (to: number, width: number, isFolded: boolean): void => {
    pieces.push({ from: time, to, left, right: left + width, folded: isFolded })
    time = to
    left += width
  }
  for (const [from, to] of idle) {
    if (from > time) add(from, room * ((from - time) / Math.max(rest, 1e-9)), false)
    add(to, folded, true)
  }
  if (time < length) add(length, room * ((length - time) / Math.max(rest, 1e-9)), false)
  return new Scale(pieces)
}

/** When some node was running, joined where they overlap. */
function busyStretches(timeline: Timeline, length: number): [number, number][] {
  const all = timeline.tracks
    .flatMap((track) => track.spans)
    .filter((span) => span.phase === 'running')
    .map((span): [number, number] => [span.from, span.to ?? length])
    .sort((a, b) => a[0] - b[0])
  const joined: [number, number][] = []
  for (const [from, to] of all) {
    const last = joined.at(-1)
    if (last && from <= last[1]) last[1] = Math.max(last[1], to)
    else joined.push([from, to])
  }
  return joined
}

function gaps(busy: readonly [number, number][], length: number): [number, number][] {
  const found: [number, number][] = []
  let time = 0
  for (const [from, to] of busy) {
    if (from > time) found.push([time, from])
    time = Math.max(time, to)
  }
  if (length > time) found.push([time, length])
  return found
}
