/** Light, dark, or as the system wishes. */

import { watch } from 'vue'
import { useKept } from './kept'

export type Theme = 'system' | 'light' | 'dark'

export const theme = useKept<Theme>('theme', 'system')

/** From now on the page looks as `theme` says. */
export function applyTheme(): void {
  watch(
    theme,
    (wanted) => {
      if (wanted === 'system') document.documentElement.removeAttribute('data-theme')
      else document.documentElement.setAttribute('data-theme', wanted)
    },
    { immediate: true },
  )
}
