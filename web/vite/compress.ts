/** Puts a compressed copy beside each text of the built panel; the gateway sends that to whoever takes it. */

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import type { Plugin } from 'vite'

/** Bytes below which it is not worth it. */
const LEAST = 1000
const TEXT = /\.(js|css|html|svg|json|webmanifest)$/

export function compress(): Plugin {
  return {
    name: 'flowork-compress',
    apply: 'build',
    writeBundle({ dir }) {
      for (const name of readdirSync(dir!, { recursive: true, encoding: 'utf8' })) {
        if (!TEXT.test(name)) continue
        const text = readFileSync(join(dir!, name))
        if (text.length >= LEAST) writeFileSync(join(dir!, `${name}.gz`), gzipSync(text, { level: 9 }))
      }
    },
  }
}
