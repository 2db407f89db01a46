/** Nodes under way with the pointer: shown where they are, and taken into the flow when they are let go. */

import type { Stage } from '@/canvas/gestures'
import type { Point } from '@/canvas/shapes'
import type { Editor } from './editor'

/** `shown` is told that nodes stand elsewhere; with `true` while they are under way. */
export function useMoving(editor: Editor, shown: (dragged: boolean) => void): Pick<Stage, 'drag' | 'dropped' | 'cancelDrag'> {
  let dragged: ReadonlyMap<string, Point> | null = null
  let origins: Map<string, Point> | null = null
  return {
    drag(places) {
      const scene = editor.scene.value
      origins ??= new Map([...places.keys()].flatMap((id) => {
        const node = scene.byId.get(id)
        return node ? [[id, { x: node.x, y: node.y }] as const] : []
      }))
      dragged = places
      scene.move(places)
      shown(true)
    },
    dropped() {
      const places = dragged
      const before = origins
      dragged = origins = null
      if (!places || !before) return
      const far = [...places].some(([id, at]) => before.get(id)?.x !== at.x || before.get(id)?.y !== at.y)
      if (far) editor.move(places)
    },
    cancelDrag() {
      if (origins) editor.scene.value.move(origins)
      dragged = origins = null
      shown(false)
    },
  }
}
