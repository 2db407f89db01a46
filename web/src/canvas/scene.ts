/** Everything that is on the canvas, with the indexes that drawing and hit testing need. */

import { Grid } from './grid'
import { boundsOf, curveOf, type Curve } from './routing'
import { around, inPoint, outPoint, type EdgeShape, type GroupShape, type NodeShape, type Point, type Rect } from './shapes'

const GROUP_MARGIN = 18
const GROUP_HEAD = 26

export interface PlacedEdge {
  shape: EdgeShape
  source: NodeShape
  target: NodeShape
  curve: Curve
  bounds: Rect
}

export interface PlacedGroup extends Rect {
  shape: GroupShape
}

export class Scene {
  readonly nodes: readonly NodeShape[]
  readonly edges: readonly PlacedEdge[]
  readonly byId: ReadonlyMap<string, NodeShape>
  groups: readonly PlacedGroup[] = []
  private readonly grid: Grid<NodeShape>
  private readonly touching = new Map<string, PlacedEdge[]>()
  private readonly groupShapes: readonly GroupShape[]
  private whole: Rect | null = null

  constructor(nodes: readonly NodeShape[], edges: readonly EdgeShape[], groups: readonly GroupShape[] = []) {
    this.nodes = nodes
    this.byId = new Map(nodes.map((node) => [node.id, node]))
    this.grid = new Grid(nodes)
    this.edges = edges.flatMap((shape) => this.place(shape))
    this.groupShapes = groups
    this.placeGroups()
  }

  private place(shape: EdgeShape): PlacedEdge[] {
    const source = this.byId.get(shape.from)
    const target = this.byId.get(shape.to)
    if (!source || !target) return []
    const curve = curveOf(outPoint(source, shape.port), inPoint(target))
    const placed = { shape, source, target, curve, bounds: boundsOf(curve) }
    for (const id of new Set([shape.from, shape.to])) {
      const list = this.touching.get(id)
      if (list) list.push(placed)
      else this.touching.set(id, [placed])
    }
    return [placed]
  }

  private placeGroups(): void {
    this.groups = this.groupShapes.flatMap((shape) => {
      const members = shape.nodes.flatMap((id) => this.byId.get(id) ?? [])
      const box = around(members)
      if (!box) return []
      return [
        {
          shape,
          x: box.x - GROUP_MARGIN,
          y: box.y - GROUP_MARGIN - GROUP_HEAD,
          w: box.w + 2 * GROUP_MARGIN,
          h: box.h + 2 * GROUP_MARGIN + GROUP_HEAD,
        },
      ]
    })
  }

  /** Put nodes elsewhere for now, with their edges: while they are dragged. */
  move(places: ReadonlyMap<string, Point>): void {
    const moved = new Set<PlacedEdge>()
    for (const [id, to] of places) {
      const node = this.byId.get(id)
      if (!node) continue
      this.grid.remove(node, { x: node.x, y: node.y, w: node.w, h: node.h })
      node.x = to.x
      node.y = to.y
      this.grid.add(node)
      for (const edge of this.touching.get(id) ?? []) moved.add(edge)
    }
    for (const edge of moved) {
      edge.curve = curveOf(outPoint(edge.source, edge.shape.port), inPoint(edge.target))
      edge.bounds = boundsOf(edge.curve)
    }
    if (this.groupShapes.length) this.placeGroups()
    this.whole = null
  }

  nodesWithin(part: Rect): NodeShape[] {
    return this.grid.within(part)
  }

  edgesOf(id: string): readonly PlacedEdge[] {
    return this.touching.get(id) ?? []
  }

  /** All that there is, or null for an empty flow. */
  bounds(): Rect | null {
    return (this.whole ??= around([...this.nodes, ...this.groups]))
  }
}
