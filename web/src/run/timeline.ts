/**
 * A run as a line of moments: what every node and edge was doing at any of them.
 *
 * Made from the journal's records alone, so that a run that is over and one that is under way are the same thing. All
 * times are seconds since the run was accepted. A record's `at` is when its attempt began and `took` how long it ran.
 */

import type { RunStory } from '@/api/runs'
import type { StepState, StepView } from '@/api/steps'

/** What a node is doing. `caught`: it failed and its error port led on. */
export type Phase = StepState | 'caught'

export interface LinkOf {
  from: string
  to: string
}

/** A stretch of time in which a node did one thing; `to` is null while it goes on. */
export interface Span {
  phase: Phase
  from: number
  to: number | null
  attempt: number
}

export interface Track {
  node: string
  step: StepView
  spans: readonly Span[]
  /** When it was settled, and as what; null while it is not. */
  end: { at: number; phase: Phase } | null
}

/** Something that happened; the moment behind it is what the slider stops at. */
export interface Moment {
  at: number
  node: string
  phase: Phase | 'accepted' | 'ended'
  attempt: number
}

export type EdgeState = 'idle' | 'fired' | 'dead'

export interface Picture {
  nodes: ReadonlyMap<string, Phase>
  edges: readonly EdgeState[]
}

const PHASE_AFTER: Record<string, Phase> = {
  retry: 'retrying',
  parked: 'waiting',
  spawned: 'waiting',
  unverified: 'unverified',
}

export class Timeline {
  readonly tracks: readonly Track[]
  readonly byNode: ReadonlyMap<string, Track>
  /** In order; the first is the run's acceptance, the last (of a run that is over) its end. */
  readonly moments: readonly Moment[]
  /** From acceptance to the end, or to `now`. */
  readonly length: number
  readonly over: boolean
  private readonly skippedAt: ReadonlyMap<string, number>
  /** The moment (its number) behind which each skipped node is known as such. */
  private readonly skippedBehind: ReadonlyMap<string, number>
  private readonly fired: ReadonlyMap<string, ReadonlySet<number>>

  /** `now` in Unix seconds: how far a run under way has come. */
  constructor(
    readonly story: RunStory,
    readonly edges: readonly LinkOf[],
    now: number,
  ) {
    this.over = story.finished !== null
    const records = spansOf(story)
    const ends = new Map<string, number>()
    for (const step of story.steps) {
      const last = records.get(step.node)?.at(-1)
      if (SETTLED.has(step.state) && last) ends.set(step.node, last.to ?? last.from)
    }
    this.skippedAt = spread(story.steps, edges, ends)
    this.fired = new Map(story.steps.map((step) => [step.node, new Set(step.fired ?? [])]))
    const newest = Math.max(0, ...[...records.values()].flat().map((span) => span.to ?? span.from))
    this.length = Math.max(newest, micro((story.finished ?? now) - story.accepted), 0)
    this.tracks = story.steps.map((step) => this.track(step, records.get(step.node) ?? [], ends))
    this.byNode = new Map(this.tracks.map((track) => [track.node, track]))
    this.moments = this.inOrder()
    this.skippedBehind = spread(story.steps, edges, this.settlements())
  }

  /** The number of the moment at which each node was settled. */
  private settlements(): Map<string, number> {
    const found = new Map<string, number>(this.story.steps.filter((step) => step.state === 'kept').map((step) => [step.node, 0]))
    this.moments.forEach((moment, index) => {
      const track = this.byNode.get(moment.node)
      if (track?.end?.phase === moment.phase && SETTLED.has(track.step.state)) found.set(moment.node, index)
    })
    return found
  }

  private track(step: StepView, spans: Span[], ends: ReadonlyMap<string, number>): Track {
    if (step.state === 'running' && !spans.length) {
      spans = [{ phase: 'running', from: this.readyAt(step.node, ends), to: null, attempt: 1 }]
    }
    const last = spans.at(-1)
    if (last && last.to === null && this.over) last.to = Math.max(last.from, this.length)
    if (!last) {
      const at = this.skippedAt.get(step.node)
      return { node: step.node, step, spans, end: at === undefined ? null : { at, phase: 'skipped' } }
    }
    if (SETTLED.has(step.state)) return { node: step.node, step, spans, end: { at: last.to ?? last.from, phase: phaseOf(step) } }
    if (this.over) return { node: step.node, step, spans, end: { at: last.to ?? this.length, phase: step.state } }
    return { node: step.node, step, spans, end: null }
  }

  /** When all that leads to a node was settled. */
  private readyAt(node: string, ends: ReadonlyMap<string, number>): number {
    const into = this.edges.filter((edge) => edge.to === node)
    return Math.max(0, ...into.map((edge) => ends.get(edge.from) ?? this.skippedAt.get(edge.from) ?? 0))
  }

  private inOrder(): Moment[] {
    const found: Moment[] = []
    for (const { node, spans, end } of this.tracks) {
      for (const { from, phase, attempt } of spans) if (phase !== 'kept') found.push({ at: from, node, phase, attempt })
      if (end && end.phase !== 'skipped' && end.phase !== 'kept') found.push({ at: end.at, node, phase: end.phase, attempt: spans.at(-1)?.attempt ?? 0 })
    }
    found.sort((a, b) => a.at - b.at)
    const first: Moment = { at: 0, node: '', phase: 'accepted', attempt: 0 }
    const last: Moment[] = this.over ? [{ at: this.length, node: '', phase: 'ended', attempt: 0 }] : []
    return [first, ...found, ...last]
  }

  /** The moment (its place in `moments`) that a time belongs to: the last one that had happened. */
  momentAt(time: number): number {
    let low = 0
    let high = this.moments.length - 1
    while (low < high) {
      const middle = Math.ceil((low + high) / 2)
      if (this.moments[middle]!.at <= time + 1e-9) low = middle
      else high = middle - 1
    }
    return low
  }

  /** What had become of everything behind the moment number `index`. */
  at(index: number): Picture {
    if (index >= this.moments.length - 1) return this.final()
    const nodes = new Map<string, Phase>(
      this.story.steps.map((step) => [step.node, step.state === 'kept' ? 'kept' : 'pending']),
    )
    const settled = new Set<string>(this.story.steps.filter((step) => step.state === 'kept').map((step) => step.node))
    for (const moment of this.moments.slice(1, index + 1)) {
      if (!moment.node) continue
      nodes.set(moment.node, moment.phase as Phase)
      const track = this.byNode.get(moment.node)
      if (track?.end?.phase === moment.phase && SETTLED.has(track.step.state)) settled.add(moment.node)
    }
    for (const [node, behind] of this.skippedBehind) if (behind <= index) nodes.set(node, 'skipped')
    return { nodes, edges: this.edgesOf(nodes, settled) }
  }

  private final(): Picture {
    const nodes = new Map<string, Phase>(this.tracks.map((track) => [track.node, phaseOf(track.step)]))
    const settled = new Set(this.tracks.filter((track) => SETTLED.has(track.step.state)).map((track) => track.node))
    return { nodes, edges: this.edgesOf(nodes, settled) }
  }

  private edgesOf(nodes: ReadonlyMap<string, Phase>, settled: ReadonlySet<string>): EdgeState[] {
    return this.edges.map((edge, index) => {
      if (nodes.get(edge.from) === 'skipped') return 'dead'
      if (!settled.has(edge.from)) return 'idle'
      return this.fired.get(edge.from)?.has(index) ? 'fired' : 'dead'
    })
  }
}

const SETTLED = new Set<string>(['done', 'failed', 'kept'])

/** The state of a step as it is shown: one that left by its error port has failed, whatever became of the run. */
export function phaseOf(step: StepView): Phase {
  return step.state === 'done' && step.port === 'error' ? 'caught' : step.state
}

/** To the microseconds that the journal has: sums of floats must not tear apart what touches. */
function micro(seconds: number): number {
  return Math.round(seconds * 1e6) / 1e6
}

function spansOf(story: RunStory): Map<string, Span[]> {
  const found = new Map<string, Span[]>()
  for (const record of story.records) {
    if (!record.node) continue
    const spans = found.get(record.node) ?? []
    found.set(record.node, spans)
    const from = Math.max(0, micro(record.at - story.accepted))
    const to = micro(from + record.took)
    const begin = (phase: Phase, at: number): void => {
      const last = spans.at(-1)
      if (last && last.to === null) last.to = Math.max(last.from, at)
      if (last?.phase === 'running' && phase === 'running' && last.attempt === record.attempt && last.to === at) last.to = null
      else spans.push({ phase, from: at, to: null, attempt: record.attempt })
    }
    const finish = (): void => {
      const last = spans.at(-1)
      if (last) last.to = Math.max(last.from, to)
    }
    switch (record.kind) {
      case 'seeded':
        spans.push({ phase: 'kept', from: 0, to: 0, attempt: 0 })
        break
      case 'intent':
      case 'woken':
        begin('running', from)
        break
      case 'unverified':
        begin('unverified', from)
        break
      default: {
        if (!running(spans, from)) begin('running', from)
        finish()
        const then = PHASE_AFTER[record.kind]
        if (then) begin(then, to)
      }
    }
  }
  return found
}

/** Whether the attempt that a record tells the end of has begun with an earlier record (an intent, a wake). */
function running(spans: readonly Span[], from: number): boolean {
  const last = spans.at(-1)
  return last?.phase === 'running' && last.to === null && last.from <= from
}

/** From when (or which moment) nodes were settled to when it was known of each skipped one that no path leads to it. */
function spread(steps: readonly StepView[], edges: readonly LinkOf[], settled: ReadonlyMap<string, number>): Map<string, number> {
  const skipped = new Set(steps.filter((step) => step.state === 'skipped').map((step) => step.node))
  const next = new Map<string, string[]>()
  const missing = new Map<string, number>([...skipped].map((node) => [node, 0]))
  for (const { from, to } of edges) {
    if (!skipped.has(to) || !skipped.has(from)) continue
    next.set(from, [...(next.get(from) ?? []), to])
    missing.set(to, missing.get(to)! + 1)
  }
  const found = new Map<string, number>([...skipped].map((node) => [node, 0]))
  for (const { from, to } of edges) {
    if (skipped.has(to) && !skipped.has(from)) found.set(to, Math.max(found.get(to)!, settled.get(from) ?? 0))
  }
  const ready = [...skipped].filter((node) => missing.get(node) === 0)
  for (let node = ready.pop(); node !== undefined; node = ready.pop()) {
    for (const to of next.get(node) ?? []) {
      found.set(to, Math.max(found.get(to)!, found.get(node)!))
      missing.set(to, missing.get(to)! - 1)
      if (missing.get(to) === 0) ready.push(to)
    }
  }
  return found
}
