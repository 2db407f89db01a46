/** Above all else: an open dialog is in the browser's top layer, so menus and tooltips of what is in it go into it. */

import { computed, inject, type ComputedRef, type InjectionKey, type Ref } from 'vue'

export const LAYER: InjectionKey<Readonly<Ref<HTMLElement | null>>> = Symbol('layer')

/** Where a menu or tooltip of this component goes. */
export function useLayer(): ComputedRef<HTMLElement | string> {
  const layer = inject(LAYER, null)
  return computed(() => layer?.value ?? 'body')
}
