/** Steps: one execution of one node in a run; and large values kept beside them. */

import { get, seg, urlOf } from './client'

export type StepState =
  | 'pending'
  | 'running'
  | 'retrying'
  | 'waiting'
  | 'unverified'
  | 'done'
  | 'failed'
  | 'skipped'
  | 'kept'
  | 'stopped'

/** One attempt that failed, and when the next one was due. */
export interface TryView {
  attempt: number
  at: number
  took: number
  error: unknown
  again: number | null
}

/** The other engine that a step is at, or ran on: its name, its id, and the run that the step was there. */
export interface StepPlace {
  engine: string
  id: string
  run?: string
  took?: number
}

/** What a step does not have (yet) is left out. */
export interface StepView {
  node: string
  type: string
  name: string
  state: StepState
  attempts: number
  started: number | null
  took: number | null
  port: string
  input?: unknown
  output?: unknown
  error?: unknown
  /** Its rendered templates. */
  config?: unknown
  /** The variables, state and times that its templates looked up. */
  saw?: unknown
  logs?: unknown[]
  tries?: TryView[]
  until?: number | null
  signals?: string[]
  ask?: unknown
  items?: number | null
  /** The numbers of the edges by which the run went on. */
  fired?: number[]
  where?: StepPlace | null
}

/** A value that is too large to be kept with its step. */
export interface BlobRef {
  $blob: string
  size?: number
  type?: string
}

export const showStep = (run: string, node: string, signal?: AbortSignal): Promise<StepView> =>
  get(`/runs/${seg(run)}/steps/${seg(node)}`, {}, signal)

/** A blob that is JSON. */
export const showBlob = (run: string, digest: string, signal?: AbortSignal): Promise<unknown> =>
  get(`/runs/${seg(run)}/blobs/${seg(digest)}`, {}, signal)

/** For a download link on the engine's own page. */
export const blobUrl = (run: string, digest: string): string => urlOf(`/runs/${seg(run)}/blobs/${seg(digest)}`)
