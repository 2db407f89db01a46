/** Edge agents: the machines that hold the drivers. */

import { get, post, remove, seg, type Page } from './client'

export interface AgentView {
  /** Empty: the engine's own machine. */
  name: string
  id: string
  online: boolean
  text: string
  since: number
  version: string
  host: string
  address: string
  /** Seconds that its clock is ahead. */
  offset: number
  latency: number
  /** Events that it keeps until they are taken. */
  waiting: number
  dropped: number
  paired: number
  drivers: { driver?: string; ok?: boolean; text?: string; [key: string]: unknown }[]
  /** Drivers it has, with why one cannot be used there (empty: it can). */
  available: Record<string, string>
}

export interface Pairing {
  name: string
  expires: number
}

export interface MadePairing extends Pairing {
  /** Shown this once. */
  code: string
  port: number
}

export const listAgents = (signal?: AbortSignal): Promise<Page<AgentView>> => get('/agents', {}, signal)

export const listPairings = (signal?: AbortSignal): Promise<Page<Pairing>> => get('/agents/pairings', {}, signal)

/** A code with which an agent may come in. */
export const pairAgent = (name: string, minutes?: number): Promise<MadePairing> => post('/agents/pairings', { name, minutes })

export const endPairing = (name: string): Promise<void> => remove(`/agents/pairings/${seg(name)}`)

export const revokeAgent = (name: string): Promise<void> => remove(`/agents/${seg(name)}`)
