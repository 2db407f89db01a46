/** The flow as it is now, how it came to be (undo), where in it one is, what is picked, and the picture of it. */

import { computed, shallowRef, type ComputedRef, type ShallowRef } from 'vue'
import { Scene } from '@/canvas/scene'
import type { GroupShape, Point } from '@/canvas/shapes'
import type { NodeTraits } from './backend'
import * as flowdoc from './flowdoc'
import { graphAt, isTrigger, TRIGGER, triggerId, type FlowDoc, type FlowEdge, type FlowNode, type FlowTrigger, type Graph, type Path } from './flowdoc'
import { History } from './history'
import { counted, type Fault } from './problems'
import { NO_MARKS, shapesOf, type Kinds, type Marks } from './sceneof'

export type Panel = 'none' | 'config' | 'flow' | 'versions' | 'problems' | 'json' | 'spec' | 'rehearse'

export interface Preview {
  title: string
  doc: FlowDoc
  marks: Marks
}

export abstract class Board {
  readonly kinds: ShallowRef<Kinds> = shallowRef({ nodes: new Map(), triggers: new Map() })
  readonly doc: ShallowRef<FlowDoc> = shallowRef({ name: '', nodes: [] })
  readonly path: ShallowRef<Path> = shallowRef([])
  readonly picked: ShallowRef<ReadonlySet<string>> = shallowRef(new Set())
  readonly pickedEdges: ShallowRef<ReadonlySet<number>> = shallowRef(new Set())
  /** The node that the keyboard stands on. */
  readonly cursor: ShallowRef<string | null> = shallowRef(null)
  readonly faults: ShallowRef<readonly Fault[]> = shallowRef([])
  readonly traits: ShallowRef<ReadonlyMap<string, NodeTraits>> = shallowRef(new Map())
  readonly preview: ShallowRef<Preview | null> = shallowRef(null)
  readonly panel: ShallowRef<Panel> = shallowRef('none')
  /** The field of the open form that is to be shown and focused, such as `config.url`. */
  readonly field: ShallowRef<string> = shallowRef('')
  readonly undoLabel: ShallowRef<string | null> = shallowRef(null)
  readonly redoLabel: ShallowRef<string | null> = shallowRef(null)
  /** Tells those who cannot see the canvas what has happened. */
  readonly said: ShallowRef<string> = shallowRef('')

  readonly scene: ComputedRef<Scene>
  readonly dirty: ComputedRef<boolean>
  readonly readonly: ComputedRef<boolean>

  protected readonly saved: ShallowRef<FlowDoc> = shallowRef({ name: '', nodes: [] })
  protected readonly homes = new Map<string, Point>()
  protected history = new History<FlowDoc>({ name: '', nodes: [] })

  constructor(private readonly mayEdit: () => boolean) {
    this.dirty = computed(() => this.doc.value !== this.saved.value)
    this.readonly = computed(() => this.preview.value !== null || !this.mayEdit())
    this.scene = computed(() => {
      const { nodes, edges } = shapesOf(this.shown.value, this.path.value, this.kinds.value, this.findings.value, this.marks.value, this.homes)
      return new Scene(nodes, edges, this.path.value.length ? [] : (this.shown.value.groups ?? []).map(groupShape))
    })
  }

  private readonly shown = computed(() => this.preview.value?.doc ?? this.doc.value)
  private readonly marks = computed(() => this.preview.value?.marks ?? NO_MARKS)
  private readonly findings = computed(() => {
    const prefix = this.path.value.map((id) => `${id}/`).join('')
    const ports = new Map<string, readonly string[]>()
    const sends = new Map<string, readonly string[]>()
    for (const [name, traits] of this.traits.value) {
      const id = name.slice(prefix.length)
      if (!name.startsWith(prefix) || id.includes('/')) continue
      ports.set(id, traits.ports)
      sends.set(id, traits.sends_to ?? [])
    }
    return { ports, sends, ...counted(this.preview.value ? [] : this.faults.value, this.path.value) }
  })

  /** The flow has changed: have it looked at. */
  protected abstract checkSoon(): void

  // --- changing ------------------------------------------------------------------------------------

  get graph(): Graph {
    return graphAt(this.doc.value, this.path.value)
  }

  /** One change that can be undone. Changes with the same key that follow each other closely are one. */
  change(label: string, work: (doc: FlowDoc) => FlowDoc, mergeKey = ''): void {
    if (this.readonly.value) return
    this.history.commit(work(this.doc.value), label, mergeKey)
    this.shownNow()
  }

  protected changeGraph(label: string, work: (graph: Graph) => Graph, mergeKey = ''): void {
    this.change(label, (doc) => flowdoc.withGraph(doc, this.path.value, work), mergeKey)
  }

  protected shownNow(): void {
    this.doc.value = this.history.value
    this.undoLabel.value = this.history.undoLabel
    this.redoLabel.value = this.history.redoLabel
    this.dropStale()
    this.checkSoon()
  }

  /** What is picked has to be there. */
  protected dropStale(): void {
    while (this.path.value.length && !this.bodyThere()) this.path.value = this.path.value.slice(0, -1)
    const there = new Set([...this.graph.nodes.map((node) => node.id), ...(this.path.value.length ? [] : this.triggers.map((one) => TRIGGER + one.id))])
    const kept = [...this.picked.value].filter((id) => there.has(id))
    if (kept.length !== this.picked.value.size) this.picked.value = new Set(kept)
    const edges = this.graph.edges?.length ?? 0
    const keptEdges = [...this.pickedEdges.value].filter((index) => index < edges)
    if (keptEdges.length !== this.pickedEdges.value.size) this.pickedEdges.value = new Set(keptEdges)
    if (this.cursor.value !== null && !there.has(this.cursor.value)) this.cursor.value = null
  }

  protected bodyThere(): boolean {
    const holder = graphAt(this.doc.value, this.path.value.slice(0, -1)).nodes
    return holder.some((node) => node.id === this.path.value.at(-1))
  }

  undo(): void {
    if (this.readonly.value) return
    const label = this.history.undoLabel
    if (this.history.undo()) this.say(`Undone: ${label}`)
    this.shownNow()
  }

  redo(): void {
    if (this.readonly.value) return
    const label = this.history.redoLabel
    if (this.history.redo()) this.say(`Redone: ${label}`)
    this.shownNow()
  }

  say(text: string): void {
    this.said.value = text
  }

  // --- picking -------------------------------------------------------------------------------------

  get triggers(): readonly FlowTrigger[] {
    return this.doc.value.triggers ?? []
  }

  pick(nodes: Iterable<string>, edges: Iterable<number> = [], add = false): void {
    this.picked.value = new Set(add ? [...this.picked.value, ...nodes] : nodes)
    this.pickedEdges.value = new Set(add ? [...this.pickedEdges.value, ...edges] : edges)
    const last = [...this.picked.value].at(-1)
    if (last !== undefined) this.cursor.value = last
  }

  toggle(id: string): void {
    const picked = new Set(this.picked.value)
    if (!picked.delete(id)) picked.add(id)
    this.picked.value = picked
    this.cursor.value = id
  }

  pickAll(): void {
    this.pick(this.scene.value.nodes.map((node) => node.id))
  }

  clearPicked(): void {
    this.picked.value = new Set()
    this.pickedEdges.value = new Set()
  }

  /** The one node or trigger that is picked. */
  readonly pickedNode = computed<FlowNode | null>(() => {
    const id = only(this.picked.value)
    return id === null || isTrigger(id) ? null : (graphAt(this.shown.value, this.path.value).nodes.find((node) => node.id === id) ?? null)
  })

  readonly pickedTrigger = computed<FlowTrigger | null>(() => {
    const id = only(this.picked.value)
    return id !== null && isTrigger(id) ? ((this.shown.value.triggers ?? []).find((one) => one.id === triggerId(id)) ?? null) : null
  })

  readonly pickedEdge = computed<{ index: number; edge: FlowEdge } | null>(() => {
    const index = this.picked.value.size ? null : only(this.pickedEdges.value)
    const edge = index === null ? undefined : graphAt(this.shown.value, this.path.value).edges?.[index]
    return index === null || !edge ? null : { index, edge }
  })

  openConfig(id: string, field = ''): void {
    this.pick([id])
    this.field.value = field
    this.panel.value = 'config'
  }

  openEdge(index: number): void {
    this.pick([], [index])
    this.panel.value = 'config'
  }

  // --- where in the flow ---------------------------------------------------------------------------

  /** Into the body of a node. */
  enter(id: string): void {
    this.go([...this.path.value, id])
  }

  /** Show the graph at a path. */
  go(path: Path): void {
    if (path.join('/') === this.path.value.join('/')) return
    this.homes.clear()
    this.path.value = path
    this.clearPicked()
    this.cursor.value = null
  }

  leave(depth = this.path.value.length - 1): void {
    const from = this.path.value[depth]
    this.go(this.path.value.slice(0, depth))
    if (from !== undefined) this.pick([from])
  }
}

/** The one thing in a set; null if there are none or several. */
export function only<T>(set: ReadonlySet<T>): T | null {
  const [one] = set
  return set.size === 1 && one !== undefined ? one : null
}

function groupShape(group: flowdoc.FlowGroup): GroupShape {
  return { id: group.id, name: group.name, color: group.color ?? 'logic', nodes: group.nodes }
}
