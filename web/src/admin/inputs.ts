/** What the engine says of an input (`input.room: is required`), at its field. */

import type { Problem } from '@/api/client'

export function problemsOf(message: string): Problem[] {
  const found = /^input\.(\w+): (.*)$/s.exec(message)
  return found ? [{ path: found[1]!, message: found[2]! }] : []
}
