/** Flows: graphs of nodes with their triggers. Every save is a version; one of them is live. */

import { all, get, post, remove, request, seg, type Answer, type Page, type Problem } from './client'
import type { FlowBody, VersionView } from './versions'

export type RunState = 'queued' | 'running' | 'waiting' | 'succeeded' | 'failed' | 'dead' | 'cancelled' | 'skipped'

export interface RecentRun {
  id: string
  state: RunState
  accepted: number
}

export interface FlowView {
  id: string
  name: string
  workspace: string
  folder: string
  tags: string[]
  newest: number
  /** The live version's number; null if it is not deployed. */
  live: number | null
  /** False: deployed, and its triggers start nothing. */
  enabled: boolean
  created: number
  updated: number
  /** Its newest runs, latest first, if asked for. */
  recent?: RecentRun[] | null
}

export interface FlowDetail extends FlowView {
  version: VersionView
  flow: FlowBody
}

export interface SavedFlow extends FlowDetail {
  /** What was converted, or is worth knowing. */
  notes: string[]
  /** False: no kernel runs; it takes the change up when it starts. */
  kernel: boolean
}

export interface NodeTraits {
  ports: string[]
  effect: string
  /** Hosts that see what it works on, since it asks models there; `?`: only a run can tell. */
  sends_to?: string[]
}

export interface Checked {
  ok: boolean
  problems: Problem[]
  /** The flow in today's form. */
  flow: FlowBody
  notes: string[]
  nodes: Record<string, NodeTraits>
}

/** `extra` of the 409 that a save collides with. */
export interface Collision {
  yours: VersionView | null
  newest: VersionView | null
}

export interface FlowFilter {
  workspace?: string
  search?: string
  tag?: string
  recent?: boolean
  cursor?: string
  limit?: number
}

export interface NewFlow {
  flow: FlowBody
  id?: string
  message?: string
  deploy?: boolean
}

export interface FlowEdit {
  flow: FlowBody
  /** The number of the version that was edited. */
  base: number
  message?: string
  deploy?: boolean
}

export const listFlows = (filter: FlowFilter = {}, signal?: AbortSignal): Promise<Page<FlowView>> =>
  get('/flows', { ...filter }, signal)

export const allFlows = (filter: Omit<FlowFilter, 'cursor' | 'limit'> = {}, signal?: AbortSignal): Promise<FlowView[]> =>
  all('/flows', { ...filter }, signal)

/** With the `ETag` to save on top of. */
export const showFlow = (id: string, signal?: AbortSignal): Promise<Answer<FlowDetail>> =>
  request('GET', `/flows/${seg(id)}`, { signal })

export const createFlow = (flow: NewFlow, workspace?: string, draft = false, key?: string): Promise<SavedFlow> =>
  post('/flows', flow, { query: { workspace, draft: draft || undefined }, key })

export const saveFlow = (id: string, edit: FlowEdit, draft = false, ifMatch?: string): Promise<Answer<SavedFlow>> =>
  request('PUT', `/flows/${seg(id)}`, { body: edit, query: { draft: draft || undefined }, ifMatch })

export const deleteFlow = (id: string): Promise<void> => remove(`/flows/${seg(id)}`)

export const validateFlow = (flow: FlowBody, id?: string, workspace?: string, signal?: AbortSignal): Promise<Checked> =>
  post('/flows/validate', { flow, id }, { query: { workspace }, signal })

export const moveFlow = (id: string, folder: string): Promise<FlowView> => post(`/flows/${seg(id)}/move`, { folder })
