/** All that can be done to the flow: nodes, triggers and edges, where they stand, groups, copying. */

import { computed } from 'vue'
import { aligned, distributed, freePlace, type Alignment } from '@/canvas/arrange'
import { Layouter } from '@/canvas/layouter'
import { GRID, NODE_WIDTH, nodeHeight, snap, type NodeShape, type Point, type PortRef } from '@/canvas/shapes'
import { Board, only } from './board'
import { clipText, pasted, readClip, withClip } from './clipboard'
import * as flowdoc from './flowdoc'
import { isTrigger, TRIGGER, type FlowDoc, type FlowEdge, type FlowNode, type FlowTrigger } from './flowdoc'
import { startConfig } from './schema'
import { layoutInput, type Kind } from './sceneof'

export abstract class Drawing extends Board {
  private readonly layouter = new Layouter()
  private closed = false

  close(): void {
    this.closed = true
    this.layouter.close()
  }

  // --- nodes, triggers, edges ----------------------------------------------------------------------

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
}
