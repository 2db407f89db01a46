/** Settings of the engine. */

import { get, patch, remove, seg } from './client'
import type { JsonSchema } from '@/lib/schema'

export interface Setting {
  name: string
  value: unknown
  default: unknown
  /** An environment variable goes before what is set here. */
  source: 'environment' | 'database' | 'default'
}

export interface AllSettings {
  settings: Setting[]
  schema: JsonSchema
}

export const showSettings = (signal?: AbortSignal): Promise<AllSettings> => get('/settings', {}, signal)

/** All of them are kept, or none. */
export const changeSettings = (values: Record<string, unknown>): Promise<AllSettings> => patch('/settings', { values })

export const resetSetting = (name: string): Promise<void> => remove(`/settings/${seg(name)}`)
