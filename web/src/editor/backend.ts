/** What the editor asks of an engine. The page hands in the real one; tests their own. */

import type { FlowDiff } from './marks'
import type { FlowDoc } from './flowdoc'
import type { Problem } from './problems'

export interface NodeTraits {
  ports: string[]
  effect: string
  /** Hosts that see what it works on; `?`: only a run can tell. */
  sends_to?: string[]
}

export interface Checked {
  ok: boolean
  problems: Problem[]
  nodes: Record<string, NodeTraits>
}

export interface VersionInfo {
  number: number
  author: string
  message: string
  created: number
  live: boolean
}

export interface FlowState {
  id: string
  name: string
  workspace: string
  newest: number
  live: number | null
  enabled: boolean
  version: VersionInfo
  flow: FlowDoc
  kernel?: boolean
  notes?: string[]
}

/** Somebody saved in between. */
export interface Collision {
  yours: VersionInfo | null
  newest: VersionInfo | null
}

export type SaveResult = { saved: FlowState } | { collision: Collision } | { problems: Problem[] }

export interface RunBrief {
  id: string
  state: string
  accepted: number
  version: number | null
}

export interface StepData {
  node: string
  state: string
  input?: unknown
  output?: unknown
  error?: unknown
}

export interface RunData extends RunBrief {
  event: unknown
  payload?: unknown
  steps: StepData[]
}

export interface Given {
  value: unknown
  error: string
}

export interface Tried {
  outcome: 'done' | 'failed' | 'waits' | 'starts'
  port: string
  output?: unknown
  error: { message?: string } | null
  took: number
  config: unknown
  logs: [number, string, string][]
  state: Record<string, unknown>
  until: number | null
  ask: unknown
  items: number | null
}

/** A step of a dry run; `held`: it would have had an effect. */
export interface DryStep extends Omit<Tried, 'outcome'> {
  node: string
  type: string
  outcome: Tried['outcome'] | 'held'
  input?: unknown
  /** It is behind a held step: whether this is what really comes nobody knows. */
  guess: boolean
}

export interface Rehearsed {
  steps: DryStep[]
  /** False: there were too many steps to tell all. */
  complete: boolean
}

export interface Backend {
  load(): Promise<FlowState>
  check(flow: FlowDoc): Promise<Checked>
  save(flow: FlowDoc, base: number, how: { message: string; draft: boolean; deploy: boolean }): Promise<SaveResult>
  compare(flow: FlowDoc, version: number | null): Promise<FlowDiff>
  versions(): Promise<VersionInfo[]>
  version(number: number): Promise<VersionInfo & { flow: FlowDoc }>
  rollback(number: number): Promise<FlowState>
  runs(): Promise<RunBrief[]>
  run(id: string): Promise<RunData>
  evaluate(run: string, node: string, text: { source: string; expression: boolean; behind: boolean }): Promise<Given>
  tryOut(trial: { node: object; payload: unknown; event: object; steps: object; effects: boolean }): Promise<Tried>
  rehearse(flow: FlowDoc, payload: unknown, event: object): Promise<Rehearsed>
  names(): Promise<{ vars: Record<string, unknown>; secrets: string[] }>
}
