/** The editor of one flow: the flow as it is now, what is picked, what the engine says of it, and all that can be done. */

import { computed, shallowRef, type ComputedRef, type ShallowRef } from 'vue'
import { ActivityLog } from '@/canvas/activity'
import { aligned, distributed, freePlace, type Alignment } from '@/canvas/arrange'
import { Layouter } from '@/canvas/layouter'
import { Scene } from '@/canvas/scene'
import { GRID, NODE_WIDTH, nodeHeight, snap, type GroupShape, type NodeShape, type Point, type PortRef } from '@/canvas/shapes'
import type { Backend, Collision, FlowState, NodeTraits, RunData, VersionInfo } from './backend'
import { clipText, pasted, readClip, withClip } from './clipboard'
import * as flowdoc from './flowdoc'
import { graphAt, isTrigger, TRIGGER, triggerId, type FlowDoc, type FlowEdge, type FlowNode, type FlowTrigger, type Graph, type Path } from './flowdoc'
import { History } from './history'
import { NOTHING_KNOWN, type Known } from './completion'
import { counted, located, type Fault } from './problems'
import { startConfig } from './schema'
import { layoutInput, NO_MARKS, shapesOf, type Kind, type Kinds, type Marks } from './sceneof'

export type Panel = 'none' | 'config' | 'flow' | 'versions' | 'problems' | 'json' | 'spec' | 'rehearse'

export interface Preview {
  title: string
  doc: FlowDoc
  marks: Marks
}

const CHECK_AFTER = 350

export class Editor {
  readonly flow: ShallowRef<FlowState | null> = shallowRef(null)
  readonly kinds: ShallowRef<Kinds> = shallowRef({ nodes: new Map(), triggers: new Map() })
  readonly doc: ShallowRef<FlowDoc> = shallowRef({ name: '', nodes: [] })
  readonly path: ShallowRef<Path> = shallowRef([])
  readonly picked: ShallowRef<ReadonlySet<string>> = shallowRef(new Set())
  readonly pickedEdges: ShallowRef<ReadonlySet<number>> = shallowRef(new Set())
  /** The node that the keyboard stands on. */
  readonly cursor: ShallowRef<string | null> = shallowRef(null)
  readonly faults: ShallowRef<readonly Fault[]> = shallowRef([])
  readonly checking = shallowRef(false)
  readonly traits: ShallowRef<ReadonlyMap<string, NodeTraits>> = shallowRef(new Map())
  readonly preview: ShallowRef<Preview | null> = shallowRef(null)
  readonly collision: ShallowRef<Collision | null> = shallowRef(null)
  readonly panel: ShallowRef<Panel> = shallowRef('none')
  /** The field of the open form that is to be shown and focused, such as `config.url`. */
  readonly field: ShallowRef<string> = shallowRef('')
  readonly busy = shallowRef('')
  readonly undoLabel: ShallowRef<string | null> = shallowRef(null)
  readonly redoLabel: ShallowRef<string | null> = shallowRef(null)
  /** The past run whose data forms and tests show. */
  readonly sample: ShallowRef<RunData | null> = shallowRef(null)
  readonly vars: ShallowRef<Record<string, unknown>> = shallowRef({})
  readonly secrets: ShallowRef<readonly string[]> = shallowRef([])
  readonly activity = new ActivityLog()
  /** Tells those who cannot see the canvas what has happened. */
  readonly said: ShallowRef<string> = shallowRef('')

  /** What still waits for a pause in somebody's typing; done before the flow is saved or compared. */
  readonly pending = new Set<() => void>()

  readonly scene: ComputedRef<Scene>
  readonly dirty: ComputedRef<boolean>
  readonly readonly: ComputedRef<boolean>

  private readonly saved: ShallowRef<FlowDoc> = shallowRef({ name: '', nodes: [] })
  private readonly homes = new Map<string, Point>()
  private readonly layouter = new Layouter()
  private history = new History<FlowDoc>({ name: '', nodes: [] })
  private timer: ReturnType<typeof setTimeout> | undefined
  private asked = 0
  private closed = false

  constructor(
    readonly backend: Backend,
    private readonly mayEdit: () => boolean = () => true,
  ) {
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

  // --- loading and ending --------------------------------------------------------------------------

  async open(kinds: Kinds): Promise<void> {
    this.kinds.value = kinds
    this.take(await this.backend.load())
    void this.loadSample()
    void this.backend.names().then((names) => {
      this.vars.value = names.vars
      this.secrets.value = names.secrets
    }, ignored)
  }

  /** The engine's flow in place of what is here; there is no way back behind it. */
  take(flow: FlowState): void {
    this.flow.value = flow
    this.homes.clear()
    this.history = new History<FlowDoc>(flow.flow)
    this.saved.value = flow.flow
    this.clearPicked()
    this.path.value = []
    this.shownNow()
  }

  close(): void {
    this.closed = true
    clearTimeout(this.timer)
    this.layouter.close()
  }

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

  private changeGraph(label: string, work: (graph: Graph) => Graph, mergeKey = ''): void {
    this.change(label, (doc) => flowdoc.withGraph(doc, this.path.value, work), mergeKey)
  }

  private shownNow(): void {
    this.doc.value = this.history.value
    this.undoLabel.value = this.history.undoLabel
    this.redoLabel.value = this.history.redoLabel
    this.dropStale()
    this.checkSoon()
  }

  /** What is picked has to be there. */
  private dropStale(): void {
    while (this.path.value.length && !this.bodyThere()) this.path.value = this.path.value.slice(0, -1)
    const there = new Set([...this.graph.nodes.map((node) => node.id), ...(this.path.value.length ? [] : this.triggers.map((one) => TRIGGER + one.id))])
    const kept = [...this.picked.value].filter((id) => there.has(id))
    if (kept.length !== this.picked.value.size) this.picked.value = new Set(kept)
    const edges = this.graph.edges?.length ?? 0
    const keptEdges = [...this.pickedEdges.value].filter((index) => index < edges)
    if (keptEdges.length !== this.pickedEdges.value.size) this.pickedEdges.value = new Set(keptEdges)
    if (this.cursor.value !== null && !there.has(this.cursor.value)) this.cursor.value = null
  }

  private bodyThere(): boolean {
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

  // --- checking ------------------------------------------------------------------------------------

  private checkSoon(): void {
    clearTimeout(this.timer)
    if (this.closed) return
    this.checking.value = true
    this.timer = setTimeout(() => void this.check(), CHECK_AFTER)
  }

  /** Have the engine look at the flow as it is. */
  async check(): Promise<void> {
    clearTimeout(this.timer)
    const mine = ++this.asked
    const doc = this.doc.value
    try {
      const checked = await this.backend.check(doc)
      if (mine !== this.asked || this.closed) return
      this.faults.value = checked.problems.map((problem) => located(doc, problem))
      this.traits.value = new Map([...this.traits.value, ...Object.entries(checked.nodes)])
    } catch {
      // The engine is away, or says no: the page shows its connection; what was found before stays.
    } finally {
      if (mine === this.asked) this.checking.value = false
    }
  }

  effectOf(node: FlowNode): string {
    const name = [...this.path.value, node.id].join('/')
    return this.traits.value.get(name)?.effect ?? this.kinds.value.nodes.get(node.type)?.effect ?? 'once'
  }

  /** Hosts that see what a node works on. */
  sendsTo(node: FlowNode): readonly string[] {
    return this.traits.value.get([...this.path.value, node.id].join('/'))?.sends_to ?? []
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

  /** Go to the place of a fault. */
  visit(fault: Fault): void {
    this.go(fault.graph)
    if (fault.edge >= 0) this.openEdge(fault.edge)
    else if (fault.shape) this.openConfig(fault.shape, fault.field)
    else {
      this.clearPicked()
      this.field.value = fault.field
      this.panel.value = 'flow'
    }
  }

  // --- nodes and triggers --------------------------------------------------------------------------

  /** A new node of a kind; linked behind `from` if that is given. Its id. */
  addNode(kind: Kind, at: Point | null, from: PortRef | null = null): string {
    const id = flowdoc.freeId(kind.type, this.graph.nodes.map((node) => node.id))
    const config = startConfig(kind.schema)
    const node: FlowNode = { id, type: kind.type, config, position: this.placeFor(kind.ports ?? ['out'], at, from) }
    if (kind.has_body && !config.body) node.config = { ...config, body: { nodes: [], edges: [] } }
    this.changeGraph(`Add ${kind.title}`, (graph) => flowdoc.addNode(graph, node, from && !isTrigger(from.node) ? from : undefined))
    this.pick([id])
    this.say(`Added ${kind.title} as ${id}${from ? ` behind ${from.node}` : ''}`)
    return id
  }

  addTrigger(kind: Kind, at: Point | null): string {
    const id = flowdoc.freeId(kind.type, this.triggers.map((one) => one.id))
    const trigger: FlowTrigger = { id, type: kind.type, config: startConfig(kind.schema), position: this.placeFor(['out'], at, null, true) }
    this.change(`Add trigger ${kind.title}`, (doc) => ({ ...doc, triggers: [...(doc.triggers ?? []), trigger] }))
    this.pick([TRIGGER + id])
    this.say(`Added trigger ${kind.title}`)
    return TRIGGER + id
  }

  private placeFor(ports: readonly string[], at: Point | null, from: PortRef | null, first = false): Point {
    const { nodes } = this.scene.value
    const source = from ? this.scene.value.byId.get(from.node) : undefined
    const bounds = this.scene.value.bounds()
    const beside = source ? { x: source.x + source.w + 80, y: source.y } : null
    const below = bounds ? { x: bounds.x, y: bounds.y + bounds.h + 2 * GRID } : { x: first ? 0 : 300, y: 0 }
    return freePlace(nodes, at ?? beside ?? below, NODE_WIDTH, nodeHeight(ports))
  }

  setNode(id: string, change: Partial<FlowNode>, what = 'settings'): void {
    this.changeGraph(`Change ${what} of ${id}`, (graph) => flowdoc.setNode(graph, id, change), `node:${id}:${what}`)
  }

  setTrigger(id: string, change: Partial<FlowTrigger>, what = 'settings'): void {
    this.change(`Change ${what} of trigger ${id}`, (doc) => flowdoc.setTrigger(doc, id, change), `trigger:${id}:${what}`)
  }

  setEdge(index: number, change: Partial<FlowEdge>): void {
    this.changeGraph('Change an edge', (graph) => flowdoc.setEdge(graph, index, change), `edge:${index}`)
  }

  setFlow(change: Partial<FlowDoc>, what: string): void {
    this.change(`Change ${what}`, (doc) => ({ ...doc, ...change }), `flow:${what}`)
  }

  /** Give a node another id. Says why it cannot be, or nothing. */
  renameNode(before: string, after: string): string {
    if (before === after) return ''
    if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/.test(after)) return 'Letters, digits, _ . and -, beginning with a letter, a digit or _.'
    if (this.graph.nodes.some((node) => node.id === after)) return `There is a node ${after} already.`
    this.change(`Rename ${before} to ${after}`, (doc) => flowdoc.renameNode(doc, this.path.value, before, after))
    this.pick([after])
    return ''
  }

  /** Link two nodes. Says why it cannot be, or nothing. */
  connect(from: PortRef, to: string): string {
    if (isTrigger(from.node)) return 'A trigger starts every node that no edge leads to; it has no edges of its own.'
    const fault = flowdoc.linkFault(this.graph, from.node, from.port, to)
    if (fault) {
      this.say(fault)
      return fault
    }
    this.changeGraph(`Link ${from.node} to ${to}`, (graph) => flowdoc.connect(graph, from.node, from.port, to))
    this.say(`Linked ${from.node} to ${to}`)
    return ''
  }

  /** Lead an edge to another node, or take it out. */
  rewire(index: number, to: string | null): string {
    const edge = this.graph.edges?.[index]
    if (!edge || edge.to === to) return ''
    if (to === null) {
      this.change('Remove an edge', (doc) => flowdoc.remove(doc, this.path.value, new Set(), new Set([index])))
      return ''
    }
    const without = { ...this.graph, edges: (this.graph.edges ?? []).filter((_, at) => at !== index) }
    const fault = flowdoc.linkFault(without, edge.from, flowdoc.portOf(edge), to)
    if (!fault) this.changeGraph('Lead an edge elsewhere', (graph) => flowdoc.setEdge(graph, index, { to }))
    return fault
  }

  /** Put a node that was just added between the ends of an edge. */
  insertInto(index: number, id: string): void {
    const edge = this.graph.edges?.[index]
    if (!edge) return
    const ports = this.kinds.value.nodes.get(this.graph.nodes.find((node) => node.id === id)?.type ?? '')?.ports ?? ['out']
    const source = this.scene.value.byId.get(edge.from)
    const target = this.scene.value.byId.get(edge.to)
    this.changeGraph(`Put ${id} in between`, (graph) => {
      const led = flowdoc.setEdge(graph, index, { to: id })
      return flowdoc.connect(led, id, ports[0] ?? 'out', edge.to)
    })
    if (source && target) {
      const at = { x: (source.x + target.x) / 2, y: (source.y + target.y) / 2 }
      const others = this.scene.value.nodes.filter((node) => node.id !== id)
      this.move(new Map([[id, freePlace(others, at, NODE_WIDTH, nodeHeight(ports))]]))
    }
  }

  removePicked(heal = false): void {
    const count = this.picked.value.size + this.pickedEdges.value.size
    if (!count) return
    const id = only(this.picked.value)
    const after = id ? this.scene.value.edgesOf(id).find((edge) => edge.target.id === id)?.source.id : undefined
    this.change(count === 1 ? `Remove ${id ?? 'an edge'}` : `Remove ${count} things`, (doc) =>
      heal && id && !isTrigger(id)
        ? flowdoc.removeAndHeal(doc, this.path.value, id)
        : flowdoc.remove(doc, this.path.value, this.picked.value, this.pickedEdges.value),
    )
    this.say(`Removed ${count === 1 ? (id ?? 'an edge') : `${count} things`}`)
    if (after !== undefined && this.scene.value.byId.has(after)) this.pick([after])
    else this.clearPicked()
  }

  toggleDisabled(): void {
    const nodes = this.graph.nodes.filter((node) => this.picked.value.has(node.id))
    const triggers = this.triggers.filter((one) => this.picked.value.has(TRIGGER + one.id))
    const off = [...nodes, ...triggers].some((one) => !one.disabled)
    this.change(off ? 'Switch off' : 'Switch on', (doc) => {
      let next = doc
      for (const node of nodes) next = flowdoc.withGraph(next, this.path.value, (graph) => flowdoc.setNode(graph, node.id, { disabled: off }))
      for (const one of triggers) next = flowdoc.setTrigger(next, one.id, { disabled: off })
      return next
    })
  }

  // --- places --------------------------------------------------------------------------------------

  /** Put shapes elsewhere for good; shapes without a place of their own keep the one they were given. */
  move(places: ReadonlyMap<string, Point>, label = ''): void {
    if (!places.size) return
    const all = this.withHomes(places)
    this.change(label || (places.size === 1 ? `Move ${[...places.keys()][0]}` : `Move ${places.size} nodes`), (doc) => flowdoc.moveTo(doc, this.path.value, all))
  }

  private withHomes(places: Iterable<readonly [string, Point]>): Map<string, Point> {
    const homeless = (one: { position?: Point | null }): boolean => !one.position
    const ids = [
      ...this.graph.nodes.filter(homeless).map((node) => node.id),
      ...this.triggers.filter(homeless).map((one) => TRIGGER + one.id),
    ]
    const homes = ids.flatMap((id) => (this.homes.has(id) ? [[id, this.homes.get(id)!] as const] : []))
    return new Map([...homes, ...places])
  }

  nudge(dx: number, dy: number): void {
    const places = this.pickedShapes().map((node) => [node.id, { x: node.x + dx, y: node.y + dy }] as const)
    if (places.length) {
      const all = this.withHomes(places)
      this.change(`Move ${places.length === 1 ? places[0]![0] : `${places.length} nodes`}`, (doc) => flowdoc.moveTo(doc, this.path.value, all), 'nudge')
    }
  }

  private pickedShapes(): NodeShape[] {
    return this.scene.value.nodes.filter((node) => this.picked.value.has(node.id))
  }

  align(how: Alignment): void {
    this.move(aligned(this.pickedShapes(), how), 'Align')
  }

  distribute(along: 'x' | 'y'): void {
    this.move(distributed(this.pickedShapes(), along), 'Distribute')
  }

  /** Lay out what is picked, or all of it. */
  async tidy(): Promise<void> {
    const picked = this.pickedShapes()
    const shapes = picked.length > 1 ? picked : [...this.scene.value.nodes]
    if (!shapes.length) return
    const left = Math.min(...shapes.map((node) => node.x))
    const top = Math.min(...shapes.map((node) => node.y))
    const placed = await this.layouter.layout(layoutInput(shapes, this.scene.value.edges.map((edge) => edge.shape)))
    if (this.closed) return
    this.move(new Map(placed.map(({ id, x, y }) => [id, { x: snap(left) + x, y: snap(top) + y }])), 'Lay out')
    this.say('Laid out')
  }

  group(): void {
    const nodes = [...this.picked.value].filter((id) => !isTrigger(id))
    if (!nodes.length || this.path.value.length) return
    this.change('Group', (doc) => {
      const groups = (doc.groups ?? []).map((one) => ({ ...one, nodes: one.nodes.filter((id) => !nodes.includes(id)) })).filter((one) => one.nodes.length)
      const id = flowdoc.freeId('group', groups.map((one) => one.id))
      return { ...doc, groups: [...groups, { id, name: 'Group', nodes, color: 'logic' }] }
    })
  }

  ungroup(): void {
    this.change('Ungroup', (doc) => ({ ...doc, groups: (doc.groups ?? []).filter((one) => !one.nodes.some((id) => this.picked.value.has(id))) }))
  }

  /** The group whose nodes are exactly what is picked. */
  readonly pickedGroup = computed(() => {
    const picked = [...this.picked.value].filter((id) => !isTrigger(id))
    if (!picked.length || this.path.value.length) return null
    return (this.doc.value.groups ?? []).find((one) => one.nodes.length === picked.length && picked.every((id) => one.nodes.includes(id))) ?? null
  })

  setGroup(id: string, change: { name?: string; color?: string }): void {
    this.change('Change a group', (doc) => ({ ...doc, groups: (doc.groups ?? []).map((one) => (one.id === id ? { ...one, ...change } : one)) }), `group:${id}`)
  }

  // --- copying -------------------------------------------------------------------------------------

  copyText(): string {
    return clipText(this.graph, this.path.value.length ? [] : this.triggers, this.picked.value)
  }

  /** Paste a text as nodes; false if it holds none. */
  paste(text: string, at: Point | null = null): boolean {
    const clip = readClip(text)
    if (!clip) return false
    const xs = [...clip.nodes, ...clip.triggers].map((one) => one.position?.x ?? 0)
    const ys = [...clip.nodes, ...clip.triggers].map((one) => one.position?.y ?? 0)
    const offset = at ? { x: snap(at.x - Math.min(...xs)), y: snap(at.y - Math.min(...ys)) } : { x: 2 * GRID, y: 2 * GRID }
    const triggers = this.path.value.length ? [] : [...this.triggers]
    const made = pasted(this.graph, triggers, this.path.value.length ? { ...clip, triggers: [] } : clip, offset)
    this.change(`Paste ${made.picked.length === 1 ? made.picked[0] : `${made.picked.length} nodes`}`, (doc) => {
      const next = flowdoc.withGraph(doc, this.path.value, () => made.graph)
      return this.path.value.length ? next : withClip(next, made.triggers)
    })
    this.pick(made.picked)
    this.say(`Pasted ${made.picked.length} nodes`)
    return true
  }

  duplicate(): void {
    if (this.picked.value.size) this.paste(this.copyText())
  }

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

  // --- saving --------------------------------------------------------------------------------------

  /** Take over what was typed and not taken over yet. */
  settle(): void {
    for (const work of this.pending) work()
  }

  /** Save as a new version, with faults as a draft. True if it was saved. */
  async save(message = '', deploy = false): Promise<boolean> {
    this.settle()
    const flow = this.flow.value
    if (!flow || this.busy.value) return false
    this.busy.value = deploy ? 'Deploying …' : 'Saving …'
    const doc = this.doc.value
    try {
      const result = await this.backend.save(doc, flow.newest, { message, draft: !deploy && this.faults.value.length > 0, deploy })
      if ('collision' in result) {
        this.collision.value = result.collision
        return false
      }
      if ('problems' in result) {
        this.faults.value = result.problems.map((problem) => located(doc, problem))
        if (!deploy) return await this.saveDraft(doc, flow.newest, message)
        this.panel.value = 'problems'
        return false
      }
      this.kept(result.saved, doc)
      return true
    } finally {
      this.busy.value = ''
    }
  }

  /** The engine found faults that were not known yet: they are no reason to lose work. */
  private async saveDraft(doc: FlowDoc, base: number, message: string): Promise<boolean> {
    const result = await this.backend.save(doc, base, { message, draft: true, deploy: false })
    if ('collision' in result) this.collision.value = result.collision
    if (!('saved' in result)) return false
    this.kept(result.saved, doc)
    return true
  }

  private kept(saved: FlowState, sent: FlowDoc): void {
    this.flow.value = saved
    const filled = JSON.stringify(saved.flow) !== JSON.stringify(sent)
    if (filled && this.doc.value === sent) {
      // The engine has added something, such as a webhook's path.
      this.history.commit(saved.flow, 'Save')
      this.saved.value = saved.flow
      this.shownNow()
    } else this.saved.value = sent
  }

  /** After a collision: what is here becomes the newest version, on top of the other one. */
  async keepMine(message: string): Promise<boolean> {
    const newest = this.collision.value?.newest?.number
    const flow = this.flow.value
    if (newest === undefined || !flow) return false
    this.flow.value = { ...flow, newest }
    this.collision.value = null
    return this.save(message)
  }

  /** After a collision: the other version, and what was here can be had back by undoing. */
  async takeTheirs(): Promise<void> {
    const theirs = await this.backend.load()
    this.collision.value = null
    this.flow.value = theirs
    this.history.commit(theirs.flow, 'Take the other version')
    this.saved.value = theirs.flow
    this.shownNow()
  }

  async rollback(version: VersionInfo): Promise<void> {
    const flow = await this.backend.rollback(version.number)
    this.flow.value = { ...flow, flow: this.flow.value?.flow ?? flow.flow }
  }

  /** Go on with another flow, such as an older version: it becomes what is edited, and a new version once it is saved. */
  restore(doc: FlowDoc, label: string): void {
    this.preview.value = null
    this.homes.clear()
    this.change(label, () => doc)
  }

  // --- data of past runs ---------------------------------------------------------------------------

  async loadSample(id?: string): Promise<void> {
    try {
      const wanted = id ?? (await this.backend.runs())[0]?.id
      if (wanted !== undefined && !this.closed) this.sample.value = await this.backend.run(wanted)
    } catch {
      // Without a past run fields are only not filled with examples.
    }
  }

  /** What templates of a node could read, as far as the run that is looked at shows it. */
  known(node: FlowNode | null, behind = false): Known {
    const run = this.sample.value
    const base = { ...NOTHING_KNOWN, vars: this.vars.value, secrets: this.secrets.value }
    if (!run) return base
    const steps: Record<string, unknown> = {}
    for (const step of run.steps) if (step.output !== undefined) steps[step.node] = step.output
    return { ...base, event: run.event, steps, payload: node ? this.inputOf(node.id, behind) : run.payload }
  }

  /** What a node worked on in that run; for a new one, what the node before it gave. */
  inputOf(id: string, behind = false): unknown {
    const step = this.sample.value?.steps.find((one) => one.node === id)
    if (step) return behind ? step.output : step.input
    const source = this.sourceOf(id)
    return source === null ? this.sample.value?.payload : this.sample.value?.steps.find((one) => one.node === source)?.output
  }

  /** Where an expression of a node can be evaluated: at its own step, or behind the one before it if it is new. */
  spotOf(id: string, behind = false): { node: string; behind: boolean } | null {
    const steps = this.sample.value?.steps ?? []
    if (steps.some((one) => one.node === id)) return { node: id, behind }
    const source = this.sourceOf(id)
    if (source !== null && steps.some((one) => one.node === source)) return { node: source, behind: true }
    return null
  }

  private sourceOf(id: string): string | null {
    return (this.graph.edges ?? []).find((edge) => edge.to === id)?.from ?? null
  }
}

function only<T>(set: ReadonlySet<T>): T | null {
  const [one] = set
  return set.size === 1 && one !== undefined ? one : null
}

function groupShape(group: flowdoc.FlowGroup): GroupShape {
  return { id: group.id, name: group.name, color: group.color ?? 'logic', nodes: group.nodes }
}

const ignored = (): void => undefined
