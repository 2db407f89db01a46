/** Approvals: steps that wait for a person's word, and unverified ones that wait for a decision. */

import { get, post, seg, type Page } from './client'

export interface Asked {
  run: string
  flow: string
  workspace: string
  node: string
  /** The step's name. */
  name: string
  kind: 'approval' | 'unverified' | (string & {})
  ask: { title?: string; text?: string; choices?: string[]; [key: string]: unknown }
  until: number | null
  payload: unknown
}

export const listApprovals = (workspace?: string, signal?: AbortSignal): Promise<Page<Asked>> =>
  get('/approvals', { workspace }, signal)

export const answerApproval = (run: string, node: string, answer: string, note = ''): Promise<void> =>
  post(`/approvals/${seg(run)}/${seg(node)}/answer`, { answer, note })

export const decideStep = (run: string, node: string, decision: 'retry' | 'skip' | 'fail'): Promise<void> =>
  post(`/approvals/${seg(run)}/${seg(node)}/decide`, { decision })
