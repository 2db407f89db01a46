/** Light, dark, or as the system wishes. The page says which one it is in `data-theme`. */

import { watch } from 'vue'
import { useKept } from './kept'

export type Theme = 'system' | 'light' | 'dark'

export const theme = useKept<Theme>('theme', 'system')

/** From now on the page looks as `theme` and the system say. */
export function applyTheme(): void {
  const system = matchMedia('(prefers-color-scheme: dark)')
  const show = (): void => {
    const dark = theme.value === 'system' ? system.matches : theme.value === 'dark'
    document.documentElement.dataset.theme = dark ? 'dark' : 'light'
  }
  system.addEventListener('change', show)
  watch(theme, show, { immediate: true })
}
