/** The editor that the parts of the page share, and where in the flow the open form is. */

import { inject, provide, type InjectionKey, type Ref } from 'vue'
import type { Editor } from './editor'

const EDITOR: InjectionKey<Editor> = Symbol('editor')
const SPOT: InjectionKey<Spot> = Symbol('spot')

/** What the fields of the open form are about: data of past runs is looked up there. */
export interface Spot {
  /** The node whose input templates see, or null where there is none (triggers, the flow). */
  node: Readonly<Ref<string | null>>
  /** On an edge: `payload` is what the node gave. */
  behind: boolean
}

export function provideEditor(editor: Editor): void {
  provide(EDITOR, editor)
}

export function useEditor(): Editor {
  const editor = inject(EDITOR)
  if (!editor) throw new Error('there is no editor around this')
  return editor
}

export function provideSpot(spot: Spot): void {
  provide(SPOT, spot)
}

export function useSpot(): Spot | null {
  return inject(SPOT, null)
}
