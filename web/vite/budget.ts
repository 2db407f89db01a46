/**
 * How much JavaScript a page may load at first, compressed. A build that is over its budget fails, and says what of it
 * weighs most.
 */

import { gzipSync } from 'node:zlib'
import type { Plugin, Rollup } from 'vite'

/** Bytes; a page by its file. With `beside`: all that it may ever load beyond what that page loads at first. */
export interface Budget {
  page: string
  bytes: number
  beside?: string
}

type Chunks = ReadonlyMap<string, Rollup.OutputChunk>

/** Everything that must be there before the chunks can run; `late`: and what they load when it is needed. */
function needed(chunks: Chunks, first: Iterable<string>, late: boolean, without: ReadonlySet<string>): Set<string> {
  const found = new Set<string>()
  const open = [...first]
  while (open.length) {
    const name = open.pop()!
    const chunk = chunks.get(name)
    if (found.has(name) || without.has(name) || !chunk) continue
    found.add(name)
    open.push(...chunk.imports, ...(late ? chunk.dynamicImports : []))
  }
  return found
}

export function budgets(list: readonly Budget[]): Plugin {
  return {
    name: 'flowork-budgets',
    apply: 'build',
    generateBundle(_, bundle) {
      const chunks: Chunks = new Map(Object.values(bundle).flatMap((file) => (file.type === 'chunk' ? [[file.fileName, file]] : [])))
      const sizes = new Map([...chunks].map(([name, chunk]) => [name, gzipSync(chunk.code).length]))
      const entries = [...chunks.values()].filter((chunk) => chunk.isEntry).map((chunk) => chunk.fileName)
      const load = (page: string, without?: ReadonlySet<string>): Set<string> => {
        const own = [...chunks.values()].find((chunk) => chunk.facadeModuleId?.endsWith(page))
        if (!own) this.error(`there is no page ${page} to weigh`)
        return needed(chunks, without ? [own.fileName] : [...entries, own.fileName], without !== undefined, without ?? new Set())
      }
      for (const { page, bytes, beside } of list) {
        const names = [...load(page, beside === undefined ? undefined : load(beside))]
        const total = names.reduce((sum, name) => sum + sizes.get(name)!, 0)
        const told = `${page}: ${(total / 1000).toFixed(0)} kB of ${bytes / 1000} kB of compressed JavaScript`
        const heavy = names.sort((a, b) => sizes.get(b)! - sizes.get(a)!).slice(0, 8).map((name) => `  ${sizes.get(name)} ${name}`)
        if (total > bytes) this.error(`${told}\n${heavy.join('\n')}`)
        this.info(told)
      }
    },
  }
}
