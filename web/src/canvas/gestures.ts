/**
 * What mouse, pen and fingers mean on the canvas: a small machine of gestures.
 *
 * It turns pointer events into what the editor understands (select, move, connect, look elsewhere) and draws nothing
 * itself. One finger on the void pans, two pinch, a long press opens the menu; a mouse draws a marquee with
 * the left button on the void, and pans with the middle button, the wheel, or Space.
 */

import { dropTarget, hit, NEAR, type Hit } from './hit'
import { curveOf } from './routing'
import type { PlacedEdge, Scene } from './scene'
import { inPoint, outPoint, snap, spanned, type NodeShape, type Point, type PortRef, type Rect } from './shapes'
import type { Wire } from './painter'
import { panned, toWorld, zoomed, type View } from './viewport'

const MOVES_FROM = 4
const LONG_PRESS = 500

export interface Stage {
  scene(): Scene
  view(): View
  setView(view: View): void
  selection(): ReadonlySet<string>
  readonly(): boolean
  /** Nodes that are picked in place of, or with `add` beside, those that were. */
  select(nodes: readonly string[], edges: readonly number[], add: boolean): void
  toggle(node: string): void
  /** Nodes lie elsewhere for now; `done` makes it last. */
  drag(places: ReadonlyMap<string, Point>): void
  dropped(): void
  cancelDrag(): void
  connect(from: PortRef, to: string): void
  /** An edge was taken off its target and let go: over another node, or nowhere. */
  rewire(edge: number, to: string | null): void
  /** A wire was let go over nothing. */
  wireIntoVoid(from: PortRef, world: Point, screen: Point): void
  open(node: string): void
  openEdge(edge: number): void
  quickAdd(world: Point, screen: Point): void
  menu(target: Hit, screen: Point): void
  draw(overlay: { wire?: Wire | null; marquee?: Rect | null; target?: string | null; hoverEdge?: PlacedEdge | null }): void
  cursor(name: string): void
}

type Gesture =
  | { kind: 'press'; hit: Hit; at: Point; world: Point; add: boolean; touch: boolean; timer: number; pan: boolean }
  | { kind: 'pan'; last: Point }
  | { kind: 'drag'; from: Point; origins: Map<string, Point>; lead: NodeShape }
  | { kind: 'marquee'; from: Point; add: boolean; before: ReadonlySet<string> }
  | { kind: 'wire'; from: PortRef; edge: number | null }
  | { kind: 'pinch'; centre: Point; spread: number }

export class Gestures {
  private gesture: Gesture | null = null
  private readonly pointers = new Map<number, Point>()
  private space = false
  private held = false
  private readonly stops: (() => void)[] = []

  constructor(
    private readonly host: HTMLElement,
    private readonly stage: Stage,
  ) {}

  /** Begin to listen; returns what ends it. */
  start(): () => void {
    const on = <K extends keyof HTMLElementEventMap>(
      name: K,
      handle: (event: HTMLElementEventMap[K]) => void,
      options?: AddEventListenerOptions,
    ): void => {
      this.host.addEventListener(name, handle, options)
      this.stops.push(() => this.host.removeEventListener(name, handle, options))
    }
    on('pointerdown', (event) => this.down(event))
    on('pointermove', (event) => this.move(event))
    on('pointerup', (event) => this.up(event))
    on('pointercancel', (event) => this.cancelled(event))
    // After a long press the browser would go on with a click, which closes the menu again.
    on(
      'touchend',
      (event) => {
        if (this.held) event.preventDefault()
        this.held = false
      },
      { passive: false },
    )
    on('wheel', (event) => this.wheel(event), { passive: false })
    on('dblclick', (event) => this.double(event))
    on('contextmenu', (event) => this.context(event))
    const space = (event: KeyboardEvent): void => {
      if (event.code === 'Space') this.space = event.type === 'keydown' && document.activeElement === this.host
    }
    window.addEventListener('keydown', space)
    window.addEventListener('keyup', space)
    this.stops.push(() => {
      window.removeEventListener('keydown', space)
      window.removeEventListener('keyup', space)
    })
    return () => this.close()
  }

  private close(): void {
    this.abort()
    for (const stop of this.stops.splice(0)) stop()
  }

  /** End what is under way without any effect. True if there was something. */
  abort(): boolean {
    const gesture = this.gesture
    if (!gesture) return false
    if (gesture.kind === 'press') clearTimeout(gesture.timer)
    if (gesture.kind === 'drag') this.stage.cancelDrag()
    this.gesture = null
    this.stage.draw({ wire: null, marquee: null, target: null })
    this.stage.cursor('')
    return true
  }

  private at(event: { clientX: number; clientY: number }): Point {
    const box = this.host.getBoundingClientRect()
    // A browser that has just brought a card into sight has scrolled, and the canvas may not know yet.
    return { x: event.clientX - box.left + this.host.scrollLeft, y: event.clientY - box.top + this.host.scrollTop }
  }

  private world(screen: Point): Point {
    return toWorld(this.stage.view(), screen)
  }

  private hit(screen: Point, touch: boolean): Hit {
    return hit(this.stage.scene(), this.world(screen), this.stage.view().zoom, touch ? NEAR.touch : NEAR.mouse)
  }

  // --- pointers ------------------------------------------------------------------------------------

  private down(event: PointerEvent): void {
    if (isControl(event.target)) return
    const at = this.at(event)
    this.pointers.set(event.pointerId, at)
    this.host.setPointerCapture(event.pointerId)
    if (this.pointers.size === 2) {
      this.abort()
      this.gesture = { kind: 'pinch', ...this.pinch() }
      return
    }
    if (this.pointers.size > 2) return
    const touch = event.pointerType === 'touch'
    this.held = false
    const world = this.world(at)
    if (event.button === 2) return
    if (event.button === 1 || this.space) {
      this.gesture = { kind: 'press', hit: this.hit(at, touch), at, world, add: false, touch, timer: 0, pan: true }
      return
    }
    const target = this.hit(at, touch)
    const timer = touch ? window.setTimeout(() => this.longPress(), LONG_PRESS) : 0
    const add = event.shiftKey || event.ctrlKey || event.metaKey
    this.gesture = { kind: 'press', hit: target, at, world, add, touch, timer, pan: touch && target.on === 'void' }
    if (target.on === 'node' && !this.stage.selection().has(target.node.id) && !add && !touch) {
      this.stage.select([target.node.id], [], false)
    }
  }

  private move(event: PointerEvent): void {
    const at = this.at(event)
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, at)
    const gesture = this.gesture
    if (!gesture) {
      if (event.pointerType !== 'touch' && !isControl(event.target)) this.hover(at)
      return
    }
    switch (gesture.kind) {
      case 'press':
        if (Math.hypot(at.x - gesture.at.x, at.y - gesture.at.y) > MOVES_FROM) this.begin(gesture, at)
        break
      case 'pan':
        this.stage.setView(panned(this.stage.view(), at.x - gesture.last.x, at.y - gesture.last.y))
        gesture.last = at
        break
      case 'drag':
        this.dragTo(gesture, this.world(at), event.altKey)
        break
      case 'marquee':
        this.marqueeTo(gesture, this.world(at))
        break
      case 'wire':
        this.wireTo(gesture, this.world(at))
        break
      case 'pinch':
        this.pinchTo(gesture)
    }
  }

  private up(event: PointerEvent): void {
    this.pointers.delete(event.pointerId)
    const gesture = this.gesture
    const at = this.at(event)
    if (!gesture) return
    if (gesture.kind === 'pinch') {
      if (this.pointers.size < 2) this.gesture = null
      return
    }
    this.gesture = null
    this.stage.cursor('')
    switch (gesture.kind) {
      case 'press':
        clearTimeout(gesture.timer)
        this.click(gesture)
        break
      case 'drag':
        this.stage.dropped()
        break
      case 'wire':
        this.wired(gesture, at)
    }
    this.stage.draw({ wire: null, marquee: null, target: null })
  }

  private cancelled(event: PointerEvent): void {
    this.pointers.delete(event.pointerId)
    this.abort()
  }

  // --- beginning -----------------------------------------------------------------------------------

  private begin(press: Extract<Gesture, { kind: 'press' }>, at: Point): void {
    clearTimeout(press.timer)
    const { hit: target, world } = press
    if (press.pan) {
      this.stage.cursor('grabbing')
      this.gesture = { kind: 'pan', last: at }
      this.stage.setView(panned(this.stage.view(), at.x - press.at.x, at.y - press.at.y))
    } else if (target.on === 'port' && !this.stage.readonly() && target.node.kind === 'node') {
      this.gesture = { kind: 'wire', from: { node: target.node.id, port: target.port }, edge: null }
    } else if (target.on === 'input' && !this.stage.readonly()) {
      this.takeOff(target.node, world)
    } else if ((target.on === 'node' || target.on === 'port') && !this.stage.readonly()) {
      this.lift(target.node, world)
    } else if (target.on === 'group' && !this.stage.readonly()) {
      this.stage.select(target.group.shape.nodes, [], press.add)
      const lead = this.stage.scene().byId.get(target.group.shape.nodes[0] ?? '')
      if (lead) this.lift(lead, world)
    } else {
      const before = press.add ? new Set(this.stage.selection()) : new Set<string>()
      this.gesture = { kind: 'marquee', from: world, add: press.add, before }
    }
  }

  private lift(node: NodeShape, from: Point): void {
    if (!this.stage.selection().has(node.id)) this.stage.select([node.id], [], false)
    const origins = new Map<string, Point>()
    for (const id of this.stage.selection()) {
      const picked = this.stage.scene().byId.get(id)
      if (picked) origins.set(id, { x: picked.x, y: picked.y })
    }
    this.stage.cursor('grabbing')
    this.gesture = { kind: 'drag', from, origins, lead: node }
  }

  /** Take hold of the end of the edge that leads into a node; the newest, if there are several. */
  private takeOff(node: NodeShape, world: Point): void {
    const edge = this.stage
      .scene()
      .edgesOf(node.id)
      .filter((one) => one.target === node && one.shape.index >= 0)
      .at(-1)
    if (!edge) return this.lift(node, world)
    this.gesture = { kind: 'wire', from: { node: edge.shape.from, port: edge.shape.port }, edge: edge.shape.index }
  }

  // --- going on ------------------------------------------------------------------------------------

  private dragTo(drag: Extract<Gesture, { kind: 'drag' }>, world: Point, free: boolean): void {
    const lead = drag.origins.get(drag.lead.id)
    if (!lead) return
    const goal = { x: lead.x + world.x - drag.from.x, y: lead.y + world.y - drag.from.y }
    const dx = (free ? Math.round(goal.x) : snap(goal.x)) - lead.x
    const dy = (free ? Math.round(goal.y) : snap(goal.y)) - lead.y
    this.stage.drag(new Map([...drag.origins].map(([id, at]) => [id, { x: at.x + dx, y: at.y + dy }])))
  }

  private marqueeTo(gesture: Extract<Gesture, { kind: 'marquee' }>, world: Point): void {
    const rect = spanned(gesture.from, world)
    const inside = this.stage.scene().nodesWithin(rect).map((node) => node.id)
    this.stage.select([...new Set([...gesture.before, ...inside])], [], false)
    this.stage.draw({ marquee: rect })
  }

  private wireTo(gesture: Extract<Gesture, { kind: 'wire' }>, world: Point): void {
    const source = this.stage.scene().byId.get(gesture.from.node)
    if (!source) return
    const target = dropTarget(this.stage.scene(), world, gesture.from.node, 18 / this.stage.view().zoom)
    const curve = curveOf(outPoint(source, gesture.from.port), target ? inPoint(target) : world)
    this.stage.cursor('crosshair')
    this.stage.draw({ wire: { curve, lands: target !== null }, target: target?.id ?? null })
  }

  private wired(gesture: Extract<Gesture, { kind: 'wire' }>, at: Point): void {
    const world = this.world(at)
    const target = dropTarget(this.stage.scene(), world, gesture.from.node, 18 / this.stage.view().zoom)
    if (gesture.edge !== null) this.stage.rewire(gesture.edge, target?.id ?? null)
    else if (target) this.stage.connect(gesture.from, target.id)
    else this.stage.wireIntoVoid(gesture.from, world, at)
  }

  private pinch(): { centre: Point; spread: number } {
    const [a, b] = [...this.pointers.values()] as [Point, Point]
    return { centre: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }, spread: Math.max(10, Math.hypot(a.x - b.x, a.y - b.y)) }
  }

  private pinchTo(gesture: Extract<Gesture, { kind: 'pinch' }>): void {
    if (this.pointers.size < 2) return
    const now = this.pinch()
    const moved = panned(this.stage.view(), now.centre.x - gesture.centre.x, now.centre.y - gesture.centre.y)
    this.stage.setView(zoomed(moved, now.centre, now.spread / gesture.spread))
    Object.assign(gesture, now)
  }

  // --- clicks --------------------------------------------------------------------------------------

  private click(press: Extract<Gesture, { kind: 'press' }>): void {
    const { hit: target } = press
    if (press.pan && !press.touch) return
    if (target.on === 'node' || target.on === 'input' || target.on === 'port') {
      if (press.add) this.stage.toggle(target.node.id)
      else {
        this.stage.select([target.node.id], [], false)
        if (press.touch) this.stage.open(target.node.id)
      }
    } else if (target.on === 'edge') {
      this.stage.select([], [target.edge.shape.index], press.add)
      if (press.touch) this.stage.openEdge(target.edge.shape.index)
    } else if (target.on === 'group') this.stage.select(target.group.shape.nodes, [], press.add)
    else if (!press.add) this.stage.select([], [], false)
  }

  private longPress(): void {
    const gesture = this.gesture
    if (gesture?.kind !== 'press') return
    this.gesture = null
    this.held = true
    this.stage.menu(gesture.hit, gesture.at)
  }

  private double(event: MouseEvent): void {
    if (isControl(event.target)) return
    const at = this.at(event)
    const target = this.hit(at, false)
    if (target.on === 'node') this.stage.open(target.node.id)
    else if (target.on === 'edge') this.stage.openEdge(target.edge.shape.index)
    else if (target.on === 'void' && !this.stage.readonly()) this.stage.quickAdd(this.world(at), at)
  }

  private context(event: MouseEvent): void {
    if (isControl(event.target)) return
    event.preventDefault()
    this.abort()
    const at = this.at(event)
    const target = this.hit(at, false)
    if (target.on === 'node' && !this.stage.selection().has(target.node.id)) this.stage.select([target.node.id], [], false)
    if (target.on === 'edge') this.stage.select([], [target.edge.shape.index], false)
    this.stage.menu(target, at)
  }

  private hover(at: Point): void {
    const target = this.hit(at, false)
    const grips = target.on === 'port' && target.node.kind === 'node' && !this.stage.readonly()
    this.stage.cursor(grips ? 'crosshair' : target.on === 'void' ? '' : 'pointer')
    this.stage.draw({ hoverEdge: target.on === 'edge' ? target.edge : null })
  }

  /** The wheel pans, with Ctrl (which is what a pinch on a touchpad sends) it zooms; a mouse's notches zoom too. */
  private wheel(event: WheelEvent): void {
    if (isControl(event.target)) return
    event.preventDefault()
    const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1
    const dx = event.deltaX * unit
    const dy = event.deltaY * unit
    if (event.ctrlKey || event.metaKey || isNotch(event)) {
      this.stage.setView(zoomed(this.stage.view(), this.at(event), Math.exp(-dy * (event.ctrlKey && !isNotch(event) ? 0.01 : 0.0016))))
    } else if (event.shiftKey) this.stage.setView(panned(this.stage.view(), -dy - dx, 0))
    else this.stage.setView(panned(this.stage.view(), -dx, -dy))
  }
}

/** A notch of a mouse's wheel rather than a touchpad's stream: whole steps in one direction. */
function isNotch(event: WheelEvent): boolean {
  return event.deltaX === 0 && !event.shiftKey && (event.deltaMode === 1 || (Number.isInteger(event.deltaY) && Math.abs(event.deltaY) >= 100))
}

/** Buttons, fields and menus that lie over the canvas mind their own events. */
function isControl(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest('[data-overlay]') !== null
}
