/**
 * What of npm is built into the panel, with its licence: the packages that `package-lock.json` does not mark as used
 * for building only. Read when the panel is built, and loaded by the page that shows it.
 */

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Plugin } from 'vite'

const VIRTUAL = 'virtual:licences'
const RESOLVED = '\0' + VIRTUAL
const TEXTS = /^(licen[cs]e|copying|notice)(\.|$|-)/i

interface Locked {
  version?: string
  dev?: boolean
  optional?: boolean
  license?: string
}

export interface Bundled {
  name: string
  version: string
  licence: string
  text: string
}

export function bundled(root: string): Bundled[] {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as { packages: Record<string, Locked> }
  return Object.entries(lock.packages)
    .filter(([path, { dev, optional }]) => path !== '' && !dev && !optional && existsSync(join(root, path)))
    .map(([path, { version = '', license = '' }]) => ({
      name: path.replace(/^.*node_modules\//, ''),
      version,
      licence: license,
      text: textOf(join(root, path)),
    }))
    .sort((a, b) => a.name.localeCompare(b.name))
}

function textOf(folder: string): string {
  const files = readdirSync(folder, { withFileTypes: true }).filter((file) => file.isFile() && TEXTS.test(file.name))
  return files.map((file) => readFileSync(join(folder, file.name), 'utf8').trim()).join('\n\n')
}

export function licences(root: string): Plugin {
  return {
    name: 'flowork-licences',
    resolveId: (id) => (id === VIRTUAL ? RESOLVED : undefined),
    load: (id) => (id === RESOLVED ? `export const bundled = ${JSON.stringify(bundled(root))}\n` : undefined),
  }
}
