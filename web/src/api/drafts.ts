/** Drafts: what an editor asks about a flow that is not saved. Nothing of it is kept. */

import { post, seg } from './client'
import type { FlowBody } from './versions'
import type { FlowDiff } from './versions'

/** What a text gives on a run's data, or why it fails. */
export interface Given {
  value?: unknown
  error?: string
}

export interface TryOut {
  node: Record<string, unknown>
  payload?: unknown
  event?: Record<string, unknown>
  steps?: Record<string, unknown>
  /** It may really do what it does. */
  effects?: boolean
}

export interface Tried {
  outcome: 'done' | 'failed' | 'waits' | 'starts'
  port?: string
  output?: unknown
  error?: unknown
  took?: number
  config?: unknown
  saw?: unknown
  logs?: unknown[]
  state?: Record<string, unknown>
  until?: number | null
  ask?: unknown
  items?: number | null
}

/** What one step of a dry run did, or would have done. */
export interface DryStep extends Omit<Tried, 'outcome'> {
  node: string
  type: string
  /** `held`: it has an effect, which it did not have; the run went on with what had come into it. */
  outcome: Tried['outcome'] | 'held'
  input?: unknown
  /** It is behind a held step: whether this is what really comes nobody knows. */
  guess?: boolean
}

export interface Rehearsed {
  steps: DryStep[]
  complete: boolean
}

/** A dry run of a flow that need not be saved. No run is made, and nothing is kept. */
export const rehearse = (flow: FlowBody, payload: unknown, event: Record<string, unknown>, workspace: string, signal?: AbortSignal): Promise<Rehearsed> =>
  post('/drafts/rehearse', { flow, payload, event }, { query: { workspace }, signal })

/** How a flow that is not saved differs from a version (without one: from an empty flow). */
export const compareDraft = (flow: string, body: FlowBody, version?: number | null): Promise<FlowDiff> =>
  post(`/flows/${seg(flow)}/compare`, { flow: body, version })

export const evaluate = (
  run: string,
  node: string,
  source: string,
  expression = false,
  behind = false,
  signal?: AbortSignal,
): Promise<Given> =>
  post(`/runs/${seg(run)}/steps/${seg(node)}/evaluate`, { source, expression, behind }, { signal })

export const tryNode = (flow: string, what: TryOut, signal?: AbortSignal): Promise<Tried> =>
  post(`/flows/${seg(flow)}/try`, what, { signal })
