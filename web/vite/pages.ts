/**
 * A page is one file: `src/pages/flows/index.vue` is `/flows`, `src/pages/runs/[id].vue` is `/runs/:id`.
 *
 * What the menu and the router must know before a page is loaded stands in the page's own `<page>` block (JSON, see
 * `src/shell/page.ts`). This plugin gathers the blocks at build time, so that no page is loaded for them and no list
 * is kept anywhere.
 */

import { readFileSync, readdirSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import type { Plugin } from 'vite'

const VIRTUAL = 'virtual:pages'
const RESOLVED = '\0' + VIRTUAL
const BLOCK = /^<page>\s*([\s\S]*?)^<\/page>/m

interface Block {
  icon?: string
  [key: string]: unknown
}

/** `flows/[id]/edit.vue` → `/flows/:id/edit`; `[...path].vue` takes everything that nothing else took. */
export function routeOf(file: string): string {
  const parts = file
    .replace(/\.vue$/, '')
    .split('/')
    .filter((part) => part !== 'index')
    .map((part) => part.replace(/^\[\.\.\.(\w+)\]$/, ':$1(.*)*').replace(/^\[(\w+)\]$/, ':$1'))
  return '/' + parts.join('/')
}

/** The `<page>` block of a page's source; an empty one if there is none. */
export function blockOf(source: string, file: string): Block {
  const found = BLOCK.exec(source)
  if (found === null) return {}
  try {
    return JSON.parse(found[1]!) as Block
  } catch (error) {
    throw new Error(`${file}: its <page> block is no JSON: ${String(error)}`, { cause: error })
  }
}

/** Files that start with a capital are parts of a page, not pages. */
function pagesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((file) => file.split(sep).join('/'))
    .filter((file) => file.endsWith('.vue') && !/(^|\/)[A-Z][^/]*$/.test(file))
    .sort()
}

function moduleFor(folder: string): string {
  const icons = new Set<string>()
  const routes = pagesIn(folder).map((file) => {
    const { icon, ...page } = blockOf(readFileSync(join(folder, file), 'utf8'), file)
    if (icon !== undefined) icons.add(icon)
    const meta = `{ ...${JSON.stringify(page)}${icon === undefined ? '' : `, icon: ${icon}`} }`
    return `  { path: ${JSON.stringify(routeOf(file))}, meta: ${meta}, component: () => import(${JSON.stringify(join(folder, file))}) },`
  })
  const imports = icons.size === 0 ? '' : `import { ${[...icons].sort().join(', ')} } from '@lucide/vue'\n`
  return `${imports}export const routes = [\n${routes.join('\n')}\n]\n`
}

export function pages(root: string): Plugin {
  const folder = join(root, 'src', 'pages')
  return {
    name: 'flowork-pages',
    resolveId: (id) => (id === VIRTUAL ? RESOLVED : undefined),
    load(id) {
      if (id !== RESOLVED) return undefined
      for (const file of pagesIn(folder)) this.addWatchFile(join(folder, file))
      return moduleFor(folder)
    },
    // The block itself is no code.
    transform: (_, id) => (/\?vue&type=page\b/.test(id) ? 'export default undefined' : undefined),
    configureServer(server) {
      const anew = (file: string): void => {
        if (relative(folder, file).startsWith('..')) return
        const module = server.moduleGraph.getModuleById(RESOLVED)
        if (module) server.moduleGraph.invalidateModule(module)
        server.ws.send({ type: 'full-reload' })
      }
      server.watcher.on('add', anew).on('unlink', anew)
    },
  }
}
