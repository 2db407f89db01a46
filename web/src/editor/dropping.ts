/** What is dragged from the palette, and where on the canvas it is let go. */

import type { Point } from '@/canvas/shapes'

const DRAG_TYPE = 'application/x-flowork-kind'
/** From the pointer to the corner of the new card: it lies under the pointer. */
const UNDER = { x: -110, y: -30 }

export interface DropPlace {
  readonly: () => boolean
  worldAt: (event: DragEvent) => Point | null
  /** `kind` is `node` or `trigger`; `world` the corner of its card. */
  dropped: (kind: string, type: string, world: Point) => void
}

/** Begin to drag a kind: `node log`, `trigger mqtt`. */
export function dragKind(event: DragEvent, id: string): void {
  event.dataTransfer?.setData(DRAG_TYPE, id)
}

export function useDropping(place: DropPlace): { dragOver: (event: DragEvent) => void; drop: (event: DragEvent) => void } {
  return {
    dragOver(event) {
      if (!event.dataTransfer?.types.includes(DRAG_TYPE) || place.readonly()) return
      event.preventDefault()
      event.dataTransfer.dropEffect = 'copy'
    },
    drop(event) {
      const text = event.dataTransfer?.getData(DRAG_TYPE)
      const at = place.worldAt(event)
      if (!text || !at) return
      event.preventDefault()
      const [kind, type] = text.split(' ') as [string, string]
      place.dropped(kind, type, { x: at.x + UNDER.x, y: at.y + UNDER.y })
    },
  }
}
