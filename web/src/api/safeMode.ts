/** Safe mode: the kernel rests, after crashes or because it was told to. Nothing fires then. */

import { get, put } from './client'

export interface SafeMode {
  on: boolean
  since: number | null
  /** Null: until somebody ends it. */
  until: number | null
  reason: string
}

export const showSafeMode = (signal?: AbortSignal): Promise<SafeMode> => get('/safe-mode', {}, signal)

export const setSafeMode = (on: boolean, reason?: string): Promise<SafeMode> => put('/safe-mode', { on, reason })
