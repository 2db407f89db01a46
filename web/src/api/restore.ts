/** Restoring this engine from a backup. */

import { get, post, put, remove } from './client'
import type { Opening } from './backups'
import type { Part } from '@/lib/parts'

export interface RestoreView {
  stage: 'idle' | 'unpacking' | 'starting' | 'failed'
  /** Bytes of the backup. */
  done: number
  total: number
  error: string
  error_id: string
  received: number
  size: number
  /** How it opens; known once all of it was sent. */
  sealed: 'plain' | 'key' | 'passphrase' | null
}

export const showRestore = (signal?: AbortSignal): Promise<RestoreView> => get('/restore', {}, signal)

export const sendPart = (part: Part, signal?: AbortSignal): Promise<RestoreView> =>
  put('/restore/upload', part, { signal })

export const forgetUpload = (): Promise<void> => remove('/restore/upload')

/** Without a name the one that was sent. */
export const beginRestore = (how: Opening & { name?: string; as_another?: boolean }): Promise<RestoreView> => post('/restore', how)
