/** Asking which node to add, which port to leave by, where to link to, and which node to find; and doing it. */

import { computed, nextTick, shallowRef, type ComputedRef, type ShallowRef } from 'vue'
import type { Point, PortRef } from '@/canvas/shapes'
import type { Editor } from './editor'
import { isTrigger } from './flowdoc'
import { kindChoices, titled, type Choice } from './pickers'
import type { Kind } from './sceneof'

export type Ask =
  | { kind: 'add'; at: Point; world: Point | null; from: PortRef | null; begun: string; edge: number | null }
  | { kind: 'port'; at: Point; from: string }
  | { kind: 'link'; at: Point; from: PortRef }
  | { kind: 'find'; at: Point }

/** What the canvas is asked for; places are in pixels of the canvas, or of the world. */
export interface CanvasPlaces {
  reveal(id: string): void
  focus(): void
  middle(): Point
  besides(id: string): Point | null
  box(): DOMRect | undefined
}

export interface Adding {
  ask: ShallowRef<Ask | null>
  choices: ComputedRef<Choice[]>
  question: ComputedRef<{ label: string; hint: string }>
  add: (id: string, world: Point | null, from: PortRef | null) => string | null
  openPort: () => PortRef | null
  askAdd: (begun?: string) => void
  askLink: () => void
  besides: (id: string | null) => Point
  picked: (id: string) => void
}

/** `refuse` tells why something cannot be; an empty text is no reason. */
export function useAdding(editor: Editor, canvas: () => CanvasPlaces | undefined, refuse: (why: string) => void): Adding {
  const ask = shallowRef<Ask | null>(null)

  function kindOf(id: string): { kind: Kind; trigger: boolean } | null {
    const [what, type] = id.split(' ') as [string, string]
    const kind = what === 'trigger' ? editor.kinds.value.triggers.get(type) : editor.kinds.value.nodes.get(type)
    return kind ? { kind, trigger: what === 'trigger' } : null
  }

  function add(id: string, world: Point | null, from: PortRef | null): string | null {
    const found = kindOf(id)
    if (!found || editor.readonly.value) return null
    const made = found.trigger ? editor.addTrigger(found.kind, world) : editor.addNode(found.kind, world, from)
    void nextTick(() => canvas()?.reveal(made))
    return made
  }

  /** A port of the picked node that a new node can be put behind: the first that leads nowhere yet. */
  function openPort(): PortRef | null {
    const node = editor.pickedNode.value
    if (!node) return null
    const shape = editor.scene.value.byId.get(node.id)
    const ports = (shape?.ports ?? ['out']).filter((port) => port !== 'error')
    const used = new Set((editor.graph.edges ?? []).filter((edge) => edge.from === node.id).map((edge) => edge.port ?? 'out'))
    return { node: node.id, port: ports.find((port) => !used.has(port)) ?? ports[0] ?? 'out' }
  }

  function askAdd(begun = ''): void {
    if (editor.readonly.value) return
    const from = openPort()
    const edge = editor.pickedEdge.value?.index ?? null
    const shape = editor.pickedTrigger.value ? editor.scene.value.byId.get([...editor.picked.value][0]!) : undefined
    const world = shape ? { x: shape.x + shape.w + 100, y: shape.y } : from || edge !== null ? null : (canvas()?.middle() ?? null)
    ask.value = { kind: 'add', at: besides(from?.node ?? shape?.id ?? null), world, from, begun, edge }
  }

  function besides(id: string | null): Point {
    const at = id ? (canvas()?.besides(id) ?? null) : null
    const box = canvas()?.box()
    const middle = { x: (box?.width ?? 600) / 2 - 180, y: 60 }
    if (!at || at.x < 0 || at.y < 0 || at.x > (box?.width ?? 0) || at.y > (box?.height ?? 0)) return middle
    return at
  }

  const choices = computed<Choice[]>(() => {
    const asked = ask.value
    if (!asked) return []
    if (asked.kind === 'add') return kindChoices(editor.kinds.value, !asked.from && asked.edge === null && !editor.path.value.length)
    const shapes = editor.scene.value.nodes
    if (asked.kind === 'port') {
      return (editor.scene.value.byId.get(asked.from)?.ports ?? []).map((port) => ({ id: port, title: port, detail: port === 'error' ? 'when it fails for good' : '', icon: 'split', category: 'logic', section: '' }))
    }
    return shapes
      .filter((shape) => asked.kind === 'find' || (shape.hasInput && shape.id !== asked.from.node))
      .map((shape) => ({ id: shape.id, title: shape.title, detail: isTrigger(shape.id) ? `trigger · ${shape.subtitle}` : `${shape.id} · ${shape.subtitle}`, icon: shape.icon, category: shape.category, section: shape.kind === 'trigger' ? '' : titled(shape.category) }))
  })

  const question = computed(() => {
    const asked = ask.value
    if (asked?.kind === 'add') return { label: 'Add a node', hint: asked.from ? `Behind ${asked.from.node}${asked.from.port === 'out' ? '' : `, port ${asked.from.port}`}` : '' }
    if (asked?.kind === 'port') return { label: 'Which port?', hint: `Link ${asked.from} by …` }
    if (asked?.kind === 'link') return { label: 'Link to …', hint: `From ${asked.from.node}${asked.from.port === 'out' ? '' : `, port ${asked.from.port}`}` }
    return { label: 'Find a node', hint: '' }
  })

  function picked(id: string): void {
    const asked = ask.value
    ask.value = null
    if (!asked) return
    if (asked.kind === 'port') {
      ask.value = { kind: 'link', at: asked.at, from: { node: asked.from, port: id } }
      return
    }
    if (asked.kind === 'add') {
      const edge = asked.edge === null ? undefined : editor.graph.edges?.[asked.edge]
      const made = add(id, asked.world, asked.from)
      if (made && edge && asked.edge !== null && !isTrigger(made)) editor.insertInto(asked.edge, made)
    } else if (asked.kind === 'link') refuse(editor.connect(asked.from, id))
    else {
      editor.pick([id])
      canvas()?.reveal(id)
    }
    canvas()?.focus()
  }

  function askLink(): void {
    const node = editor.pickedNode.value
    if (!node || editor.readonly.value) return
    const ports = editor.scene.value.byId.get(node.id)?.ports ?? ['out']
    const main = ports.filter((port) => port !== 'error')
    const at = besides(node.id)
    ask.value = main.length > 1 ? { kind: 'port', at, from: node.id } : { kind: 'link', at, from: { node: node.id, port: main[0] ?? 'out' } }
  }

  return { ask, choices, question, add, openPort, askAdd, askLink, besides, picked }
}
