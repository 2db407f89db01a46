/** Runs: one execution of one version of a flow. */

import { get, post, seg, type Page } from './client'
import type { RunState } from './flows'
import type { FlowBody } from './versions'
import type { StepView } from './steps'
import type { Change } from './versions'

export type LetterState = 'none' | 'open' | 'replayed' | 'discarded'

export interface RunView {
  id: string
  flow: string
  flow_name: string
  workspace: string
  version: number | null
  /** Empty, or the node whose body this is a run of. */
  place: string
  state: RunState
  trigger: string
  accepted: number
  finished: number | null
  took: number | null
  error: unknown
  parent: string | null
  origin: string | null
  letter: LetterState
}

/** A run that a step of another one started, and for which item. */
export interface ChildView extends RunView {
  node: string
  index: number
  attempt: number
}

/** The flow of a run in its version; `path` leads to the nodes of this run, `ports` has their output ports. */
export interface RunFlow {
  flow: FlowBody
  path: string[]
  ports: Record<string, string[]>
}

/** One thing that happened, in order. */
export interface RecordView {
  kind: string
  node: string
  attempt: number
  at: number
  took: number
  port: string
  value?: unknown
  extra?: unknown
}

export interface LetterNote {
  at: number
  who: string
  reason: string
}

/** A run with everything. `fault` says why its steps cannot be told. */
export interface RunStory extends RunView {
  event: Record<string, unknown>
  payload?: unknown
  item: number[] | null
  output?: unknown
  letter_note?: LetterNote | null
  steps: StepView[]
  records: RecordView[]
  fault?: string
}

export interface RunFilter {
  workspace?: string
  flow?: readonly string[]
  state?: readonly RunState[]
  trigger?: string
  since?: number
  until?: number
  text?: string
  letter?: Exclude<LetterState, 'none'>
  children?: boolean
  cursor?: string
  limit?: number
}

export interface Started {
  run: string
  repeated?: boolean
  state?: RunState
  output?: unknown
  error?: unknown
  timeout?: boolean
  /** False: no kernel runs; the run is on disk and begins when there is one. */
  kernel?: boolean
}

export interface ReplayFrom {
  /** A node's id; empty: the beginning. */
  from?: string
  /** Instead of what came in; left out: the same again. */
  payload?: unknown
  version?: 'same' | 'live'
}

export interface BulkFailure {
  run: string
  id: string
  message: string
}

export interface BulkResult {
  done: string[]
  made: string[]
  failed: BulkFailure[]
}

export interface StepComparison {
  node: string
  left: string | null
  right: string | null
  same: boolean
  changes: Change[]
}

export interface RunComparison {
  left: RunView
  right: RunView
  event: Change[]
  steps: StepComparison[]
}

export const listRuns = (filter: RunFilter = {}, signal?: AbortSignal): Promise<Page<RunView>> =>
  get('/runs', { ...filter }, signal)

export const startRun = (
  flow: string,
  start: { input?: unknown; wait?: number; version?: number } = {},
  key?: string,
): Promise<Started> => post(`/flows/${seg(flow)}/runs`, start, { key })

/** `values: 'none'` leaves out what went into the steps and came out. */
export const showRun = (id: string, values: 'full' | 'none' = 'full', signal?: AbortSignal): Promise<RunStory> =>
  get(`/runs/${seg(id)}`, { values }, signal)

export const childrenOf = (
  id: string,
  filter: { cursor?: string; limit?: number; state?: readonly RunState[] } = {},
  signal?: AbortSignal,
): Promise<Page<ChildView>> => get(`/runs/${seg(id)}/children`, { ...filter }, signal)

export const flowOfRun = (id: string, signal?: AbortSignal): Promise<RunFlow> => get(`/runs/${seg(id)}/flow`, {}, signal)

export const compareRuns = (left: string, right: string, signal?: AbortSignal): Promise<RunComparison> =>
  get(`/runs/${seg(left)}/compare/${seg(right)}`, {}, signal)

export const cancelRun = (id: string): Promise<void> => post(`/runs/${seg(id)}/cancel`, undefined)

export const replayRun = (id: string, how: ReplayFrom = {}, key?: string): Promise<{ run: string }> =>
  post(`/runs/${seg(id)}/replay`, how, { key })

export const bulkRuns = (
  action: 'cancel' | 'replay',
  runs: readonly string[],
  version: 'same' | 'live' = 'same',
): Promise<BulkResult> => post('/runs/bulk', { action, runs, version })
