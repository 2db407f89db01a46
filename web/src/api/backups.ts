/** Backups: the engine in one file. */

import { get, post, seg } from './client'

export interface Backup {
  name: string
  size: number
  made: number
}

export interface Backups {
  /** Empty: the engine's own folder, on the same disk. */
  to: string
  running: boolean
  encrypted: boolean
  /** Public keys that new ones are encrypted to. */
  keys: string[]
  /** Days between those that are made by themselves; 0: none is. */
  days: number
  at: string
  keep: number
  last: { tried: number; done: number; name: string; error: string }
  items: Backup[]
}

/** What opens an encrypted backup. */
export interface Opening {
  key?: string
  passphrase?: string
}

export interface CheckedBackup {
  created: number
  files: number
  left_out: string[]
}

export const listBackups = (signal?: AbortSignal): Promise<Backups> => get('/backups', {}, signal)

export const beginBackup = (): Promise<void> => post('/backups', undefined)

export const checkBackup = (name: string, opening: Opening): Promise<CheckedBackup> =>
  post(`/backups/${seg(name)}/check`, opening)

/** The private part is shown this once. */
export const makeBackupKey = (): Promise<{ public: string; private: string }> => post('/backups/keys', undefined)
