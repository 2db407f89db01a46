/** The manual: the pages of `docs/` as they were when the panel was built. They come with it, so nothing is fetched elsewhere. */

const TEXTS = import.meta.glob<string>('../../../docs/**/*.md', { query: '?raw', import: 'default' })
const PICTURES = import.meta.glob<string>('../../../docs/**/*.svg', { query: '?url', import: 'default', eager: true })
const ROOT = '../../../docs/'
const EXTERNAL = /^[a-z][a-z0-9+.-]*:/i

export interface Chapter {
  title: string
  /** Paths below `docs/`, without `.md`. */
  pages: { path: string; title: string }[]
}

const nameOf = (file: string): string => file.slice(ROOT.length).replace(/\.md$/, '')
const all = Object.keys(TEXTS).map(nameOf).sort()

/** Where they differ from what the file's name says. */
const TITLES: Record<string, string> = {
  api: 'The API',
  cli: 'The command line',
  'add-a-node': 'Nodes of your own',
  'flow-format': 'The flow format',
  architecture: 'How it is built',
  durability: 'What is promised about runs',
}

/** Names that are not written as other words. */
const NAMES: Record<string, string> = {
  ai: 'AI', api: 'API', gpio: 'GPIO', http: 'HTTP', i2c: 'I²C', llm: 'LLM', mqtt: 'MQTT', onewire: '1-Wire', onnx: 'ONNX', pwm: 'PWM', sim: 'Simulated hardware', sql: 'SQL',
}

function titleOf(path: string): string {
  const name = path.split('/').at(-1)!
  const words = (name === 'README' ? 'overview' : name).split(/[-_]/).map((word) => NAMES[word] ?? word).join(' ')
  return TITLES[path] ?? words.charAt(0).toUpperCase() + words.slice(1)
}

/** The contents: what lies at the top first, then a chapter a folder. */
export function chapters(): Chapter[] {
  const folders = [...new Set(all.map((path) => path.split('/').slice(0, -1).join('/')))].sort()
  return folders.map((folder) => ({
    title: folder === '' ? 'Flowork' : titleOf(folder),
    pages: all
      .filter((path) => path.split('/').slice(0, -1).join('/') === folder)
      .sort((a, b) => Number(b.endsWith('README')) - Number(a.endsWith('README')) || a.localeCompare(b))
      .map((path) => ({ path, title: titleOf(path) })),
  }))
}

/** A page's markdown; null if there is none. */
export async function pageOf(path: string): Promise<string | null> {
  const load = TEXTS[`${ROOT}${path}.md`]
  return load ? await load() : null
}

/** Where a link on a page leads: on to another one, to a place outside, or nowhere in the manual (`''`). */
export function linkOf(href: string, from: string): { to?: string; href?: string } {
  if (EXTERNAL.test(href)) return { href }
  if (href.startsWith('#')) return { to: `/manual/${from}${href}` }
  const [file = '', anchor] = href.split('#')
  const path = joined(from, file).replace(/\.md$/, '')
  return all.includes(path) ? { to: `/manual/${path}${anchor ? `#${anchor}` : ''}` } : {}
}

export const pictureOf = (src: string, from: string): string => PICTURES[ROOT + joined(from, src)] ?? ''

function joined(from: string, relative: string): string {
  const parts = from.split('/').slice(0, -1)
  for (const part of relative.split('/')) {
    if (part === '..') parts.pop()
    else if (part !== '.') parts.push(part)
  }
  return parts.join('/')
}
