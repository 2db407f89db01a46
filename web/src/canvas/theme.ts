/** The canvas's colours, read from the page's CSS variables so that light, dark and contrast come from one place. */

export interface Theme {
  background: string
  dots: string
  edge: string
  edgeError: string
  edgeTrigger: string
  active: string
  selected: string
  card: string
  cardBorder: string
  text: string
  muted: string
  ok: string
  danger: string
  warn: string
  added: string
  removed: string
  changed: string
  font: string
  /** The accent of a category of nodes, by its name. */
  category: (name: string) => string
}

const CATEGORY_VARIABLES = ['logic', 'data', 'code', 'network', 'people', 'time', 'files', 'ai', 'devices', 'trigger']

/** The theme as `element` sees it now. Ask again when the colour scheme changes. */
export function readTheme(element: Element): Theme {
  // A colour may be `light-dark(…)` or `color-mix(…)`, which a canvas does not know: the browser works it out.
  const probe = document.createElement('span')
  probe.style.display = 'none'
  element.append(probe)
  const read = (name: string, otherwise: string): string => {
    probe.style.color = `var(${name}, ${otherwise})`
    return getComputedStyle(probe).color || otherwise
  }
  const accent = read('--canvas-selected', '#3b6fe0')
  const categories = new Map(CATEGORY_VARIABLES.map((name) => [name, read(`--canvas-cat-${name}`, accent)]))
  const theme: Theme = {
    background: read('--canvas-background', '#f5f6f8'),
    dots: read('--canvas-dots', '#d5d9e0'),
    edge: read('--canvas-edge', '#8b95a5'),
    edgeError: read('--canvas-edge-error', '#c9473d'),
    edgeTrigger: read('--canvas-edge-trigger', '#a8b0bd'),
    active: read('--canvas-active', '#0f8a5f'),
    selected: accent,
    card: read('--canvas-card', '#ffffff'),
    cardBorder: read('--canvas-card-border', '#cfd5de'),
    text: read('--canvas-text', '#1c2430'),
    muted: read('--canvas-muted', '#5c6675'),
    ok: read('--canvas-ok', '#0f8a5f'),
    danger: read('--canvas-danger', '#c9473d'),
    warn: read('--canvas-warn', '#b97708'),
    added: read('--canvas-added', '#0f8a5f'),
    removed: read('--canvas-removed', '#c9473d'),
    changed: read('--canvas-changed', '#b97708'),
    font: getComputedStyle(element).fontFamily || 'sans-serif',
    category: (name) => categories.get(name) ?? accent,
  }
  probe.remove()
  return theme
}

/** Tells of other colours: the page went over to light or dark. Returns its stop. */
export function watchTheme(element: HTMLElement, changed: (theme: Theme) => void): () => void {
  const chosen = new MutationObserver(() => changed(readTheme(element)))
  chosen.observe(document.documentElement, { attributes: true, attributeFilter: ['data-theme'] })
  return () => chosen.disconnect()
}
