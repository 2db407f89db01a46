/** Devices: the entities of the drivers that run, here and on edge agents. */

import { all, get, post, seg } from './client'
import type { JsonSchema } from '@/lib/schema'

export interface DeviceView {
  id: string
  /** The agent's name; empty is the engine's own machine. */
  agent: string
  driver: string
  config: Record<string, unknown>
  entity: string
  name: string
  kind: 'binary' | 'number' | 'text' | 'event' | 'image' | (string & {})
  unit: string
  writable: boolean
  /** The schema of a command. */
  commands: JsonSchema
  value: unknown
  last: string
  /** When it last said something; 0: nothing yet. */
  time: number
  online: boolean
}

export interface DeviceHistory {
  unit: string
  /** Unix seconds and value, oldest first. */
  points: [number, number][]
}

export const listDevices = (signal?: AbortSignal): Promise<DeviceView[]> => all('/devices', {}, signal)

/** The last hour of a number. */
export const showHistory = (id: string, signal?: AbortSignal): Promise<DeviceHistory> =>
  get(`/devices/${seg(id)}/history`, {}, signal)

/** Answered once its driver has acknowledged. */
export const commandDevice = (id: string, value: unknown, key?: string): Promise<{ acknowledgement: unknown }> =>
  post(`/devices/${seg(id)}/command`, { value }, { key })
