/** References to large values that are kept beside a run, and what they stand for once they were fetched. */

import type { BlobRef } from '@/api/steps'

/** What the engine calls a value of its own that was put aside; it comes as JSON. */
const VALUE_TYPE = 'application/x-flowork-value'
/** How deep and how many are looked for: more would make the page slow. */
const DEEPEST = 12
const MOST = 50

export function isBlob(value: unknown): value is BlobRef {
  return typeof value === 'object' && value !== null && typeof (value as { $blob?: unknown }).$blob === 'string'
}

export function isJson(blob: BlobRef): boolean {
  return blob.type === VALUE_TYPE || blob.type === 'application/json'
}

export function isImage(blob: BlobRef): boolean {
  return /^image\/(png|jpeg|gif|webp)$/.test(blob.type ?? '')
}

/** The references in a value, each content once. */
export function blobsIn(value: unknown): BlobRef[] {
  const found = new Map<string, BlobRef>()
  const look = (inner: unknown, depth: number): void => {
    if (typeof inner !== 'object' || inner === null || depth > DEEPEST || found.size >= MOST) return
    if (isBlob(inner)) found.set(inner.$blob, inner)
    else for (const child of Object.values(inner)) look(child, depth + 1)
  }
  look(value, 0)
  return [...found.values()]
}

/** The value with the references that were fetched in their place. */
export function filledIn(value: unknown, fetched: ReadonlyMap<string, unknown>): unknown {
  if (!fetched.size || typeof value !== 'object' || value === null) return value
  if (isBlob(value)) return fetched.has(value.$blob) ? fetched.get(value.$blob) : value
  if (Array.isArray(value)) return value.map((inner) => filledIn(inner, fetched))
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, filledIn(inner, fetched)]))
}
