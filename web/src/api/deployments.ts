/** Deployments: which version of a flow triggers start. */

import { get, post, seg, type Page } from './client'
import type { SavedFlow } from './flows'

export interface DeploymentView {
  id: number
  action: string
  before: number | null
  after: number | null
  who: string
  at: number
}

export const deploy = (flow: string, version?: number): Promise<SavedFlow> =>
  post(`/flows/${seg(flow)}/deploy`, { version })

export const rollBack = (flow: string, version?: number): Promise<SavedFlow> =>
  post(`/flows/${seg(flow)}/rollback`, { version })

export const undeploy = (flow: string): Promise<SavedFlow> => post(`/flows/${seg(flow)}/undeploy`, undefined)

export const enable = (flow: string, enabled: boolean): Promise<SavedFlow> =>
  post(`/flows/${seg(flow)}/enable`, { enabled })

export const listDeployments = (flow: string, cursor = '', signal?: AbortSignal): Promise<Page<DeploymentView>> =>
  get(`/flows/${seg(flow)}/deployments`, { cursor, limit: 50 }, signal)
