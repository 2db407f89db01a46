/** Health: is everything well, and what to do where it is not. */

import { get, post } from './client'

export type Level = 'ok' | 'warning' | 'critical'

export interface Finding {
  id: string
  /** `notice`: good to know, and nothing is wrong. */
  level: 'notice' | 'warning' | 'critical'
  text: string
  /** What to do. */
  mend: string
  workspace?: string
}

/** What the kernel says of itself; null while there is none. */
export interface KernelHealth {
  pid: number
  uptime: number
  runs: number
  waiting: number
  queue: number
  queue_bound: number
  timers: number
  commits: number
  ended: Partial<Record<string, number>>
  degraded: string
  lost_history: number
  damaged: string[]
  clock: { ok: boolean; text: string }
  free_bytes: number
  /** Bytes that the engine wrote. */
  wear?: { last_day?: number; last_hour?: number; card?: boolean; thrifty?: boolean; [key: string]: unknown }
  mqtt: Record<string, unknown>[]
  broken: unknown[]
  languages: string[]
  [key: string]: unknown
}

/** What the machine suffers from; shares from 0 to 1, °C. What it does not tell is left out. */
export interface Strain {
  memory_free?: number
  stalled?: number
  frozen?: number
  temperature?: number
  under_voltage?: boolean
  under_voltage_before?: boolean
  throttled?: boolean
  read_only?: boolean
  worn?: number
  disk_errors?: number
  usb_cut?: number
}

/** All but `status` is for those who may read it. */
export interface Health {
  status: Level
  version?: string
  findings?: Finding[]
  kernel?: KernelHealth | null
  gateway?: { uptime: number; sockets: number; [key: string]: unknown }
  history?: { last_day?: Partial<Record<string, number>>; open_letters?: number; bytes?: number; [key: string]: unknown }
  strain?: Strain
}

export const showHealth = (signal?: AbortSignal): Promise<Health> => get('/health', {}, signal)

/** The report of a repaired database was read. */
export const acknowledgeRepair = (): Promise<void> => post('/health/repair', undefined)
