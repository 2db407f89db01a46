/** Versions: every save of a flow, and what lies between two of them. */

import { get, seg, type Page } from './client'

/** The body of a flow, as `docs/flow-format.md` tells it. */
export type FlowBody = Record<string, unknown>

export interface VersionView {
  number: number
  hash: string
  author: string
  message: string
  created: number
  live: boolean
}

export interface VersionDetail extends VersionView {
  flow: FlowBody
}

/** One value that differs; `path` is where, such as `config.rules[2].when`. */
export interface Change {
  path: string
  op: 'added' | 'changed' | 'removed'
  old?: unknown
  new?: unknown
}

export interface ElementDiff {
  id: string
  type: string
  changes?: Change[]
}

export interface ElementsDiff {
  added?: ElementDiff[]
  removed?: ElementDiff[]
  changed?: ElementDiff[]
  moved?: string[]
}

export interface FlowDiff {
  nodes: ElementsDiff
  triggers: ElementsDiff
  edges_added: unknown[]
  edges_removed: unknown[]
  settings: Change[]
  other: Change[]
}

export const listVersions = (flow: string, cursor = '', signal?: AbortSignal): Promise<Page<VersionView>> =>
  get(`/flows/${seg(flow)}/versions`, { cursor, limit: 50 }, signal)

export const showVersion = (flow: string, number: number, signal?: AbortSignal): Promise<VersionDetail> =>
  get(`/flows/${seg(flow)}/versions/${number}`, {}, signal)

export const diffVersions = (flow: string, from: number, to: number, signal?: AbortSignal): Promise<FlowDiff> =>
  get(`/flows/${seg(flow)}/diff`, { from, to }, signal)
