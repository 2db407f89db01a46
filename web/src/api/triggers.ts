/** Triggers of live versions. */

import { get, post, seg, type Page } from './client'
import type { RecentRun } from './flows'
import type { Started } from './runs'

export interface TriggerView {
  flow: string
  workspace: string
  id: string
  type: string
  name: string
  version: number
  enabled: boolean
  starts_runs: boolean
  /** Null while the kernel is away. */
  ok: boolean | null
  status: string
  /** The next moments it fires, if they can be known. */
  next: number[]
  /** A webhook's address under the engine's host, for those who may start runs. */
  path?: string
  /** The run that it has started last, if that was asked for and not too long ago. */
  last?: RecentRun | null
}

export const listTriggers = (
  filter: { workspace?: string; flow?: readonly string[]; last?: boolean } = {},
  signal?: AbortSignal,
): Promise<Page<TriggerView>> => get('/triggers', { ...filter }, signal)

/** Start a run as if the trigger had fired. */
export const fireTrigger = (
  flow: string,
  trigger: string,
  event: { payload?: unknown; meta?: Record<string, unknown>; version?: number } = {},
  key?: string,
): Promise<Started> => post(`/flows/${seg(flow)}/triggers/${seg(trigger)}/test`, event, { key })
