/** What can be done with what was clicked on the canvas, as its menu lists it. */

import type { Hit } from '@/canvas/hit'
import type { Point } from '@/canvas/shapes'
import { keptText } from './clipboard'
import type { Editor } from './editor'

export interface CanvasAction {
  label: string
  run: () => void
  danger?: boolean
}

/** What the editor around the canvas does. */
export interface Around {
  /** Ask which node to add: behind what is picked, or at a place. */
  add: (world?: Point) => void
  link: () => void
  copy: () => void
  fit: () => void
  tidy: () => void
}

export function actionsOn(editor: Editor, target: Hit, world: Point, around: Around): CanvasAction[] {
  if (target.on === 'node' || target.on === 'port' || target.on === 'input') return onNode(editor, target.node, around)
  if (target.on === 'edge') return onEdge(editor, target.edge.shape.index, around)
  return onNothing(editor, world, around)
}

function onNode(editor: Editor, node: { id: string; kind: string; hasBody?: boolean; disabled?: boolean }, around: Around): CanvasAction[] {
  const items: CanvasAction[] = [{ label: 'Open settings', run: () => editor.openConfig(node.id) }]
  if (node.hasBody) items.push({ label: 'Open its body', run: () => editor.enter(node.id) })
  items.push({ label: 'Copy', run: around.copy })
  if (editor.readonly.value) return items
  const isNode = node.kind === 'node'
  if (isNode) items.push({ label: 'Add a node behind it', run: () => around.add() }, { label: 'Link to …', run: around.link })
  items.push({ label: 'Duplicate', run: () => editor.duplicate() }, { label: node.disabled ? 'Switch on' : 'Switch off', run: () => editor.toggleDisabled() })
  if (editor.picked.value.size > 1) items.push({ label: 'Group', run: () => editor.group() })
  if (isNode) items.push({ label: 'Remove, and close the gap', run: () => editor.removePicked(true), danger: true })
  items.push({ label: 'Remove', run: () => editor.removePicked(), danger: true })
  return items
}

function onEdge(editor: Editor, index: number, around: Around): CanvasAction[] {
  const items: CanvasAction[] = [{ label: 'Port and condition', run: () => editor.openEdge(index) }]
  if (editor.readonly.value) return items
  return [...items, { label: 'Put a node in between', run: () => around.add() }, { label: 'Remove', run: () => editor.removePicked(), danger: true }]
}

function onNothing(editor: Editor, world: Point, around: Around): CanvasAction[] {
  const off = editor.readonly.value
  const items: CanvasAction[] = []
  if (!off) items.push({ label: 'Add a node here', run: () => around.add(world) })
  if (!off && keptText()) items.push({ label: 'Paste', run: () => editor.paste(keptText(), world) })
  items.push({ label: 'See all of it', run: around.fit })
  if (!off) items.push({ label: 'Lay out', run: around.tidy })
  items.push({ label: 'Pick all', run: () => editor.pickAll() })
  return items
}
