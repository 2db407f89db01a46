/** The flows of `examples/`, built into the panel; loaded when somebody looks for one to begin with. */

import type { FlowBody } from '@/api/versions'

export interface Example {
  id: string
  name: string
  description: string
  tags: string[]
  /** Types of its triggers and of its nodes. */
  triggers: string[]
  nodes: string[]
  body: FlowBody
}

interface Part {
  type?: string
  module_id?: string
}

const FILES = import.meta.glob<FlowBody>('../../../examples/*.json', { eager: true, import: 'default' })

const typesOf = (parts: unknown): string[] => [...new Set(((parts ?? []) as Part[]).map((part) => part.type ?? part.module_id ?? ''))]

export function describe(id: string, body: FlowBody): Example {
  return {
    id,
    name: String(body.name ?? id),
    description: String(body.description ?? ''),
    tags: (body.tags ?? []) as string[],
    triggers: typesOf(body.triggers),
    nodes: typesOf(body.nodes),
    body,
  }
}

export const EXAMPLES: Example[] = Object.entries(FILES)
  .map(([path, body]) => describe(path.replace(/^.*\/|\.json$/g, ''), body))
  .sort((a, b) => a.name.localeCompare(b.name))
