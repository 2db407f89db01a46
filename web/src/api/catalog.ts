/** The catalog: the kinds of nodes and triggers that are installed. */

import { get } from './client'
import type { JsonSchema } from '@/lib/schema'

export interface Kind {
  type: string
  title: string
  icon: string
  summary: string
  /** Markdown. */
  help: string
  schema: JsonSchema
}

export interface NodeKind extends Kind {
  category: string
  effect: 'pure' | 'idempotent' | 'once'
  ports: string[]
  has_body: boolean
}

export interface TriggerKind extends Kind {
  web: boolean
}

export interface BrokenKind {
  type?: string
  file?: string
  error?: string
  [key: string]: unknown
}

export interface Catalog {
  nodes: NodeKind[]
  triggers: TriggerKind[]
  broken: BrokenKind[]
}

export const showCatalog = (signal?: AbortSignal): Promise<Catalog> => get('/catalog', {}, signal)
