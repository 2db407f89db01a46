/** The workshop: flows drafted from words by a model, their specs, and what their runs have shown. */

import { get, post, seg, type Problem } from './client'
import type { FlowBody } from './versions'

export interface Wish {
  text?: string
  spec?: string
  /** What there is already, to be changed. */
  flow?: FlowBody
  models?: string[]
  /** The asker's own: live texts tell the stages under it. */
  id?: string
}

/** A flow that a model has written; it is not saved. */
export interface Draft {
  flow: FlowBody
  spec: string
  /** A payload such as its trigger would bring. */
  sample: unknown
  /** Faults that are left. */
  problems: Problem[]
  /** How often the model was asked. */
  answers: number
  model: string
  provider: string
  tokens: number
  /** US dollars. */
  cost: number
}

export interface AnalysisFinding {
  kind: 'failing' | 'slow' | 'unused' | 'oversized' | 'wasteful'
  title: string
  text: string
  weight: number
  node: string
  evidence: Record<string, unknown>
  runs: string[]
  suggestion: string
  /** The flow with the suggestion carried out. */
  change: FlowBody | null
}

export interface Analysis {
  flow: string
  version: number
  runs: number
  since: number
  findings: AnalysisFinding[]
  words: string
}

/** Takes as long as the model needs; giving up ends the work. */
export const describeFlow = (wish: Wish, workspace?: string, signal?: AbortSignal): Promise<Draft> =>
  post('/drafts/describe', wish, { query: { workspace }, signal })

export const specOf = async (flow: FlowBody): Promise<string> => (await post<{ spec: string }>('/drafts/spec', { flow })).spec

export const analyseFlow = (flow: string, how: { words?: boolean; runs?: number } = {}, signal?: AbortSignal): Promise<Analysis> =>
  get(`/flows/${seg(flow)}/analysis`, { ...how }, signal)
