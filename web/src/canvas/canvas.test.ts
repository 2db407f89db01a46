import { describe, expect, it } from 'vitest'
import { ActivityLog, FLOWS_FOR, MARKED_FOR } from './activity'
import { aligned, distributed, freePlace } from './arrange'
import { Grid } from './grid'
import { dropTarget, hit } from './hit'
import { layout, type Placed } from './layout'
import { mapScale } from './minimap'
import { first, neighbour } from './navigate'
import { boundsOf, curveOf, distanceTo, pointAt } from './routing'
import { Scene } from './scene'
import { contains, inPoint, nodeHeight, outPoint, portOffset, type EdgeShape, type NodeShape } from './shapes'
import { fitted, kept, MAX_ZOOM, panned, revealing, seen, toScreen, toWorld, zoomed } from './viewport'

function shape(id: string, x = 0, y = 0, ports: readonly string[] = ['out', 'error']): NodeShape {
  const look = { title: id, subtitle: '', icon: '', category: 'logic', type: 'log', kind: 'node' as const }
  const rest = { hasInput: true, disabled: false, hasBody: false, problems: 0, diff: '' as const }
  return { id, x, y, w: 220, h: nodeHeight(ports), ports, ...look, ...rest }
}

function link(from: string, to: string, index = 0, port = 'out'): EdgeShape {
  return { index, from, to, port, condition: '', diff: '', problems: 0 }
}

describe('viewport', () => {
  const view = { x: 100, y: -50, zoom: 0.8 }

  it('goes from screen to world and back', () => {
    const at = { x: 321, y: 12 }
    const back = toScreen(view, toWorld(view, at))
    expect(back.x).toBeCloseTo(at.x)
    expect(back.y).toBeCloseTo(at.y)
  })

  it('keeps the point under the pointer while zooming, also at the limit', () => {
    for (const factor of [1.3, 0.2, 1000]) {
      const at = { x: 40, y: 300 }
      const before = toWorld(view, at)
      const after = toWorld(zoomed(view, at, factor), at)
      expect(after.x).toBeCloseTo(before.x)
      expect(after.y).toBeCloseTo(before.y)
    }
    expect(zoomed(view, { x: 0, y: 0 }, 1000).zoom).toBe(MAX_ZOOM)
  })

  it('pans by pixels of the screen', () => {
    expect(toScreen(panned(view, 10, -4), { x: 0, y: 0 })).toEqual({ x: -70, y: 36 })
  })

  it('shows all of what is to be fitted', () => {
    const part = { x: -500, y: 20, w: 3000, h: 400 }
    const size = { w: 800, h: 600 }
    const window = seen(fitted(part, size), size)
    expect(contains(window, { x: part.x, y: part.y })).toBe(true)
    expect(contains(window, { x: part.x + part.w, y: part.y + part.h })).toBe(true)
    expect(fitted({ x: 0, y: 0, w: 10, h: 10 }, size).zoom).toBe(1)
  })

  it('keeps some of what there is in sight', () => {
    const size = { w: 800, h: 600 }
    const all = { x: 0, y: 0, w: 1000, h: 400 }
    expect(kept({ x: 100, y: 50, zoom: 1 }, all, size)).toEqual({ x: 100, y: 50, zoom: 1 })
    for (const lost of [{ x: 9000, y: 0, zoom: 1 }, { x: -9000, y: 9000, zoom: 0.5 }]) {
      const window = seen(kept(lost, all, size), size)
      expect(window.x).toBeLessThan(all.x + all.w)
      expect(window.x + window.w).toBeGreaterThan(all.x)
      expect(window.y).toBeLessThan(all.y + all.h)
    }
  })

  it('moves no more than is needed to reveal something', () => {
    const size = { w: 800, h: 600 }
    const still = { x: 0, y: 0, zoom: 1 }
    expect(revealing(still, { x: 100, y: 100, w: 50, h: 50 }, size)).toEqual(still)
    expect(revealing(still, { x: 900, y: 100, w: 50, h: 50 }, size)).toEqual({ x: 190, y: 0, zoom: 1 })
  })
})

describe('grid', () => {
  const boxes = Array.from({ length: 400 }, (_, i) => ({ x: (i % 20) * 300 - 1500, y: Math.floor(i / 20) * 150 - 900, w: 220, h: 60 }))

  it('finds exactly what overlaps', () => {
    const grid = new Grid(boxes)
    for (const part of [{ x: -600, y: -600, w: 900, h: 700 }, { x: 0, y: 0, w: 1, h: 1 }, { x: -9e5, y: -9e5, w: 2e6, h: 2e6 }]) {
      const wanted = boxes.filter((b) => b.x < part.x + part.w && part.x < b.x + b.w && b.y < part.y + part.h && part.y < b.y + b.h)
      expect(new Set(grid.within(part))).toEqual(new Set(wanted))
    }
  })

  it('forgets what was taken out', () => {
    const grid = new Grid(boxes)
    const gone = boxes[33]!
    grid.remove(gone, gone)
    expect(grid.within(gone)).not.toContain(gone)
  })
})

describe('routing', () => {
  it('begins and ends at the ports', () => {
    const curve = curveOf({ x: 10, y: 20 }, { x: 300, y: -40 })
    expect(pointAt(curve, 0)).toEqual({ x: 10, y: 20 })
    expect(pointAt(curve, 1)).toEqual({ x: 300, y: -40 })
  })

  it('stays within its bounds and knows how near a point is', () => {
    for (const to of [{ x: 300, y: 90 }, { x: -400, y: 10 }]) {
      const curve = curveOf({ x: 0, y: 0 }, to)
      for (let t = 0; t <= 1; t += 0.05) {
        const at = pointAt(curve, t)
        expect(contains(boundsOf(curve), at)).toBe(true)
        expect(distanceTo(curve, at)).toBeLessThan(2)
      }
    }
    expect(distanceTo(curveOf({ x: 0, y: 0 }, { x: 200, y: 0 }), { x: 100, y: 50 })).toBeCloseTo(50, 0)
  })
})

describe('ports', () => {
  it('stand apart, within the card, error last', () => {
    for (const ports of [['out', 'error'], ['true', 'false', 'error'], ['a', 'b', 'c', 'd', 'error'], ['out']]) {
      const height = nodeHeight(ports)
      const offsets = ports.map((port) => portOffset(ports, port, height))
      expect(offsets[0]).toBeGreaterThan(8)
      expect(offsets.at(-1)).toBeLessThan(height)
      for (let i = 1; i < offsets.length; i++) expect(offsets[i]! - offsets[i - 1]!).toBeGreaterThanOrEqual(16)
    }
  })
})

describe('hit testing', () => {
  const scene = new Scene([shape('a'), shape('b', 400, 100)], [link('a', 'b')])

  it('finds ports before nodes, nodes before edges', () => {
    const a = scene.byId.get('a')!
    const out = outPoint(a, 'out')
    expect(hit(scene, out, 1)).toMatchObject({ on: 'port', port: 'out' })
    expect(hit(scene, { x: out.x + 6, y: out.y }, 1)).toMatchObject({ on: 'port', port: 'out' })
    expect(hit(scene, outPoint(a, 'error'), 1)).toMatchObject({ on: 'port', port: 'error' })
    expect(hit(scene, inPoint(scene.byId.get('b')!), 1)).toMatchObject({ on: 'input' })
    expect(hit(scene, { x: 100, y: 30 }, 1)).toMatchObject({ on: 'node', node: a })
    expect(hit(scene, pointAt(scene.edges[0]!.curve, 0.5), 1)).toMatchObject({ on: 'edge' })
    expect(hit(scene, { x: 100, y: 500 }, 1)).toEqual({ on: 'void' })
  })

  it('has links of triggers for looking only', () => {
    const only = new Scene([shape('a'), shape('b', 400, 100)], [link('a', 'b', -1)])
    expect(hit(only, pointAt(only.edges[0]!.curve, 0.5), 1)).toEqual({ on: 'void' })
  })

  it('follows nodes that are dragged, with their edges', () => {
    const moving = new Scene([shape('a'), shape('b', 400, 100)], [link('a', 'b')])
    moving.move(new Map([['b', { x: 1000, y: 900 }]]))
    expect(hit(moving, { x: 1100, y: 930 }, 1)).toMatchObject({ on: 'node' })
    expect(hit(moving, { x: 500, y: 130 }, 1)).toEqual({ on: 'void' })
    expect(pointAt(moving.edges[0]!.curve, 1)).toEqual(inPoint(moving.byId.get('b')!))
  })

  it('drops wires on whole cards, but not on where they come from', () => {
    expect(dropTarget(scene, { x: 500, y: 130 }, 'a', 10)?.id).toBe('b')
    expect(dropTarget(scene, { x: 100, y: 30 }, 'a', 10)).toBeNull()
    expect(dropTarget(scene, { x: 395, y: 130 }, 'a', 10)?.id).toBe('b')
  })
})

describe('arranging', () => {
  const nodes = [shape('a', 0, 0), shape('b', 100, 95), shape('c', 40, 400)]

  it('aligns to the outermost', () => {
    expect([...aligned(nodes, 'left').values()].map((at) => at.x)).toEqual([0, 0, 0])
    expect([...aligned(nodes, 'right').values()].map((at) => at.x)).toEqual([100, 100, 100])
  })

  it('gives the same room between neighbours', () => {
    const at = distributed(nodes, 'y')
    expect(at.get('b')!.y - at.get('a')!.y).toBe(at.get('c')!.y - at.get('b')!.y)
    expect(at.get('a')!.y).toBe(0)
    expect(at.get('c')!.y).toBe(400)
  })

  it('finds a place that nothing covers', () => {
    const place = freePlace(nodes, { x: 3, y: 8 }, 220, 60)
    expect(new Scene([...nodes, shape('new', place.x, place.y)], []).nodesWithin({ ...place, w: 220, h: 60 })).toHaveLength(1)
  })
})

describe('layout', () => {
  const size = { w: 220, h: 60 }
  const placedBy = (ids: string, links: [number, number][]): Map<string, Placed> =>
    new Map(layout({ nodes: [...ids].map((id) => ({ id, ...size })), links }).map((one) => [one.id, one]))

  it('leads from left to right', () => {
    const at = placedBy('abcd', [[0, 1], [1, 2], [0, 3], [3, 2]])
    expect(at.get('a')!.x).toBeLessThan(at.get('b')!.x)
    expect(at.get('b')!.x).toBe(at.get('d')!.x)
    expect(at.get('b')!.x).toBeLessThan(at.get('c')!.x)
  })

  it('survives circles and what stands alone', () => {
    expect(placedBy('abc', [[0, 1], [1, 0]]).size).toBe(3)
    expect(layout({ nodes: [], links: [] })).toEqual([])
  })

  it('lets no two cards overlap, whatever the graph', () => {
    let seed = 7
    const random = (): number => (seed = (seed * 16807) % 2147483647) / 2147483647
    for (let round = 0; round < 20; round++) {
      const count = 2 + Math.floor(random() * 60)
      const nodes = Array.from({ length: count }, (_, i) => ({ id: `n${i}`, w: 220, h: 60 + 22 * Math.floor(random() * 5) }))
      const links = Array.from({ length: count }, (): [number, number] => [Math.floor(random() * count), Math.floor(random() * count)])
      const placed = layout({ nodes, links }).map((one) => ({ ...nodes.find((node) => node.id === one.id)!, ...one }))
      for (const a of placed) {
        for (const b of placed) {
          if (a === b) continue
          expect(a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h).toBe(false)
        }
      }
    }
  })

  it('keeps a chain on one line', () => {
    const at = placedBy('abc', [[0, 1], [1, 2]])
    expect(new Set([...at.values()].map((one) => one.y)).size).toBe(1)
  })
})

describe('the small map', () => {
  it('has room for all there is and for what is seen', () => {
    const size = { w: 180, h: 116 }
    const all = { x: -300, y: 40, w: 4000, h: 900 }
    for (const window of [{ x: 0, y: 0, w: 800, h: 600 }, { x: 3000, y: 600, w: 1600, h: 1200 }]) {
      const { scale, origin } = mapScale(all, window, size)
      for (const part of [all, window]) {
        expect((part.x - origin.x) * scale).toBeGreaterThanOrEqual(0)
        expect((part.x + part.w - origin.x) * scale).toBeLessThanOrEqual(size.w)
        expect((part.y - origin.y) * scale).toBeGreaterThanOrEqual(0)
        expect((part.y + part.h - origin.y) * scale).toBeLessThanOrEqual(size.h)
      }
    }
  })
})

describe('the keyboard', () => {
  const nodes = [shape('a'), shape('b', 400, 0), shape('c', 400, 200), shape('far', 900, 0)]
  const scene = new Scene(nodes, [link('a', 'b', 0, 'true'), link('a', 'c', 1, 'false')])

  it('goes along edges, and to neighbours where there are none', () => {
    expect(neighbour(scene, null, 'ArrowRight')?.id).toBe('a')
    expect(neighbour(scene, 'a', 'ArrowRight')?.id).toBe('b')
    expect(neighbour(scene, 'b', 'ArrowDown')?.id).toBe('c')
    expect(neighbour(scene, 'c', 'ArrowLeft')?.id).toBe('a')
    expect(neighbour(scene, 'b', 'ArrowRight')?.id).toBe('far')
    expect(neighbour(scene, 'a', 'ArrowUp')).toBeNull()
    expect(first(new Scene([], []))).toBeNull()
  })
})

describe('activity', () => {
  it('shows a step while it goes on and forgets it after a while', () => {
    const log = new ActivityLog()
    log.tell({ node: 'a', kind: 'started' }, 0)
    expect(log.stateOf('a', 1e9)).toBe('running')
    expect(log.moving(10)).toBe(true)
    log.tell({ node: 'a', kind: 'done', port: 'true' }, 100)
    expect(log.stateOf('a', 150)).toBe('done')
    expect(log.flows('a', 'true', 150)).toBe(true)
    expect(log.flows('a', 'false', 150)).toBe(false)
    expect(log.moving(101 + FLOWS_FOR)).toBe(false)
    expect(log.nextFade(150)).toBe(100 + MARKED_FOR)
    expect(log.stateOf('a', 101 + MARKED_FOR)).toBe('')
    expect(log.countOf('a')).toBe(1)
  })

  it('marks a step that left by its error port as failed, and ends what a run left open', () => {
    const log = new ActivityLog()
    log.tell({ node: 'a', kind: 'done', port: 'error' }, 0)
    log.tell({ node: 'b', kind: 'parked' }, 0)
    expect(log.stateOf('a', 1)).toBe('failed')
    expect(log.stateOf('b', 1)).toBe('waiting')
    log.end(5)
    expect(log.stateOf('b', 6 + MARKED_FOR)).toBe('')
  })
})
