/** Bringing a signed release of Flowork in: what root's updater is at, and which releases are to be had. */

import type { Part } from '@/lib/parts'
import { get, post, put, remove } from './client'

export type UpdatePhase =
  | 'none' | 'unpacking' | 'preparing' | 'rehearsing' | 'switching' | 'watching' | 'returning'
  | 'done' | 'written' | 'rolled-back' | 'refused'

/** A release that a source has. */
export interface Available {
  /** A path on the engine's machine, an address, or `peer:NAME`. */
  source: string
  version: string
  /** Unix seconds. */
  made: number
  kind: '' | 'wheels' | 'slot'
  /** Than what runs. */
  newer: boolean
  /** Why it is not for this machine, or cannot be read. */
  why_not: string
}

/** A release that is being sent from a browser, in bytes; what it is, once that is known. */
export interface SentRelease {
  received: number
  size: number
  found: Available | null
}

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
  sticks: Available[]
  /** A release on its way here, in bytes; `size` is 0 where it is not known. */
  fetching: { done: number; size: number } | null
  sent: SentRelease | null
  /** The setting `update_from`, and the newest look at it (`at` is 0: never). */
  source: string
  looked: { at: number; found: Available | null; error: string }
  /** Empty: one can return to the version before. */
  why_no_way_back: string
  /** While it is watched: all has been well for so many seconds, and has to be; it has so many to become so. */
  well_for: number
  steady: number
  left: number
}

export const showUpdate = (signal?: AbortSignal): Promise<UpdateView> => get('/update', {}, signal)

/** What paired engines give that are on the line. */
export const showAtPeers = async (signal?: AbortSignal): Promise<Available[]> => (await get<{ items: Available[] }>('/update/peers', {}, signal)).items

/** Answered once the file is there. Without a source the one that was sent. */
export const bringRelease = (source: string): Promise<UpdateView> => post('/update', { source })

/** What a source has; without one the setting's, and that is remembered. */
export const lookAt = (source = ''): Promise<Available> => post('/update/look', { source })

export const sendRelease = (part: Part, signal?: AbortSignal): Promise<SentRelease> => put('/update/upload', part, { signal })

export const forgetRelease = (): Promise<void> => remove('/update/upload')

/** To the version before. */
export const goBack = (): Promise<UpdateView> => post('/update/back')
