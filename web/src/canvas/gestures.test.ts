import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Gestures, type Stage } from './gestures'
import { Scene } from './scene'
import { inPoint, nodeHeight, outPoint, type NodeShape, type Point } from './shapes'
import type { View } from './viewport'

function shape(id: string, x: number, y: number): NodeShape {
  const look = { title: id, subtitle: '', icon: '', category: 'logic', type: 'log', kind: 'node' as const }
  const ports = ['out', 'error']
  return { id, x, y, w: 220, h: nodeHeight(ports), ports, hasInput: true, disabled: false, hasBody: false, problems: 0, diff: '', ...look }
}

let host: HTMLElement
let scene: Scene
let view: View
let picked: Set<string>
let stop: () => void
let gestures: Gestures
let stage: { -readonly [K in keyof Stage]: Stage[K] }

beforeEach(() => {
  host = document.createElement('div')
  document.body.append(host)
  host.setPointerCapture = () => undefined
  scene = new Scene(
    [shape('a', 0, 0), shape('b', 400, 0), shape('c', 400, 300)],
    [{ index: 0, from: 'a', to: 'b', port: 'out', condition: '', diff: '', problems: 0 }],
  )
  view = { x: 0, y: 0, zoom: 1 }
  picked = new Set()
  stage = {
    scene: () => scene,
    view: () => view,
    setView: (next: View) => (view = next),
    selection: () => picked,
    readonly: () => false,
    select: vi.fn((nodes: readonly string[]) => (picked = new Set(nodes))),
    toggle: vi.fn(),
    drag: vi.fn((places) => scene.move(places)),
    dropped: vi.fn(),
    cancelDrag: vi.fn(),
    connect: vi.fn(),
    rewire: vi.fn(),
    wireIntoVoid: vi.fn(),
    open: vi.fn(),
    openEdge: vi.fn(),
    quickAdd: vi.fn(),
    menu: vi.fn(),
    draw: vi.fn(),
    cursor: () => undefined,
  } as never
  gestures = new Gestures(host, stage)
  stop = gestures.start()
})

afterEach(() => {
  stop()
  host.remove()
  vi.useRealTimers()
})

function fire(type: string, at: Point, more: PointerEventInit = {}): void {
  host.dispatchEvent(new PointerEvent(type, { clientX: at.x, clientY: at.y, pointerId: 1, button: 0, pointerType: 'mouse', bubbles: true, ...more }))
}

function drag(from: Point, to: Point, more: PointerEventInit = {}): void {
  fire('pointerdown', from, more)
  fire('pointermove', { x: (from.x + to.x) / 2, y: (from.y + to.y) / 2 }, more)
  fire('pointermove', to, more)
  fire('pointerup', to, more)
}

const A = { x: 100, y: 20 }

describe('gestures', () => {
  it('pick with a click, add with Shift, let go on the void', () => {
    fire('pointerdown', A)
    fire('pointerup', A)
    expect([...picked]).toEqual(['a'])
    fire('pointerdown', A, { shiftKey: true })
    fire('pointerup', A, { shiftKey: true })
    expect(stage.toggle).toHaveBeenCalledWith('a')
    fire('pointerdown', { x: 900, y: 700 })
    fire('pointerup', { x: 900, y: 700 })
    expect(stage.select).toHaveBeenLastCalledWith([], [], false)
  })

  it('move what is picked, on the grid', () => {
    drag(A, { x: 147, y: 63 })
    expect(scene.byId.get('a')).toMatchObject({ x: 40, y: 40 })
    expect(stage.dropped).toHaveBeenCalledOnce()
  })

  it('move off the grid with Alt', () => {
    drag(A, { x: 147, y: 63 }, { altKey: true })
    expect(scene.byId.get('a')).toMatchObject({ x: 47, y: 43 })
  })

  it('draw wires from ports to nodes, and into the void', () => {
    const c = scene.byId.get('c')!
    drag(outPoint(scene.byId.get('a')!, 'error'), { x: c.x + 50, y: c.y + 20 })
    expect(stage.connect).toHaveBeenCalledWith({ node: 'a', port: 'error' }, 'c')
    drag(outPoint(scene.byId.get('a')!, 'out'), { x: 250, y: 600 })
    expect(stage.wireIntoVoid).toHaveBeenCalledWith({ node: 'a', port: 'out' }, { x: 250, y: 600 }, { x: 250, y: 600 })
  })

  it('take an edge off its target and lead it elsewhere, or nowhere', () => {
    const at = inPoint(scene.byId.get('b')!)
    drag(at, { x: 500, y: 320 })
    expect(stage.rewire).toHaveBeenCalledWith(0, 'c')
    drag(at, { x: 200, y: 700 })
    expect(stage.rewire).toHaveBeenLastCalledWith(0, null)
  })

  it('pick what a marquee holds', () => {
    drag({ x: 350, y: -80 }, { x: 700, y: 500 })
    expect([...picked].sort()).toEqual(['b', 'c'])
  })

  it('pan with the middle button and with one finger', () => {
    drag(A, { x: 160, y: 80 }, { button: 1 })
    expect(view).toEqual({ x: -60, y: -60, zoom: 1 })
    drag({ x: 300, y: 600 }, { x: 250, y: 600 }, { pointerType: 'touch' })
    expect(view).toEqual({ x: -10, y: -60, zoom: 1 })
    expect([...picked]).toEqual([])
  })

  it('zoom with two fingers around their middle', () => {
    fire('pointerdown', { x: 100, y: 600 }, { pointerType: 'touch', pointerId: 1 })
    fire('pointerdown', { x: 200, y: 600 }, { pointerType: 'touch', pointerId: 2 })
    fire('pointermove', { x: 300, y: 600 }, { pointerType: 'touch', pointerId: 2 })
    expect(view.zoom).toBeCloseTo(2)
  })

  it('open the menu when a finger stays', () => {
    vi.useFakeTimers()
    fire('pointerdown', A, { pointerType: 'touch' })
    vi.advanceTimersByTime(600)
    expect(stage.menu).toHaveBeenCalledOnce()
    fire('pointerup', A, { pointerType: 'touch' })
    expect(stage.open).not.toHaveBeenCalled()
  })

  it('leave controls over the canvas alone', () => {
    const button = document.createElement('button')
    button.dataset.overlay = ''
    host.append(button)
    button.dispatchEvent(new PointerEvent('pointerdown', { clientX: 100, clientY: 20, pointerId: 1, bubbles: true }))
    expect(stage.select).not.toHaveBeenCalled()
  })

  it('change nothing where nothing may be changed', () => {
    stage.readonly = () => true
    drag(A, { x: 300, y: 300 })
    drag(outPoint(scene.byId.get('a')!, 'out'), { x: 450, y: 320 })
    expect(stage.drag).not.toHaveBeenCalled()
    expect(stage.connect).not.toHaveBeenCalled()
  })

  it('are called off without any effect', () => {
    fire('pointerdown', A)
    fire('pointermove', { x: 300, y: 300 })
    expect(gestures.abort()).toBe(true)
    fire('pointerup', { x: 300, y: 300 })
    expect(stage.cancelDrag).toHaveBeenCalledOnce()
    expect(stage.dropped).not.toHaveBeenCalled()
    expect(gestures.abort()).toBe(false)
  })

  it('end with what started them', () => {
    stop()
    drag(A, { x: 300, y: 300 })
    expect(stage.drag).not.toHaveBeenCalled()
  })
})
