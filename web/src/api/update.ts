/** Bringing a signed release of Flowork in; what root's updater is at. */

import { get, post } from './client'

export type UpdatePhase =
  | 'none' | 'unpacking' | 'preparing' | 'rehearsing' | 'switching' | 'watching' | 'returning' | 'done' | 'rolled-back' | 'refused'

export interface UpdateView {
  /** False: this engine is not updated this way; `why_not` says why, and what to do instead. */
  possible: boolean
  why_not: string
  state: {
    phase: UpdatePhase
    version: string
    /** The release that ran before, and the new one. */
    before: string
    release: string
    reason: string
    at: number
  }
  /** A release was handed over and was not taken up yet. */
  waiting: boolean
  /** Release files on sticks. */
  found: string[]
}

export const showUpdate = (signal?: AbortSignal): Promise<UpdateView> => get('/update', {}, signal)

/** A path on the engine's machine, or an address. Answered once the file is there. */
export const bringRelease = (source: string): Promise<UpdateView> => post('/update', { source })
