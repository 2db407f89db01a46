/** Engines: this one, those that it is paired with, those on the network; what they do, and flows that go to them. */

import { get, patch, post, remove, seg, type Page, type Problem } from './client'
import type { RunState } from './flows'

/** `self`: this engine; `connected`, `away`, `refused`: paired; `clone`: two machines have its identity. */
export type PeerStanding = 'self' | 'connected' | 'away' | 'refused' | 'clone' | 'found'
export type PeerRight = 'run' | 'models' | 'events' | 'flows'

/** What one engine lets another do; the workspaces bind all but `models`, `*` are all of them. */
export interface PeerRoles {
  rights: PeerRight[]
  workspaces: string[]
}

export interface ModelOffer {
  name: string
  task: string
  context: number
}

/** What an engine has; bytes, and its run queue per core. */
export interface PeerOffers {
  models: ModelOffer[]
  devices: string[]
  nodes: string[]
  memory: number
  memory_free: number
  cores: number
  load: number
  runs: number
  exact: boolean
}

export interface PeerState {
  id: string
  /** What it is called here. */
  name: string
  calls_itself: string
  fingerprint: string
  state: PeerStanding
  text: string
  /** The reason of a refusal: `unknown`, `revoked`, `version`, `clone`, `moved`, `moved-here`, or empty. */
  why: string
  /** What a person might do about it. */
  hint: string
  since: number
  /** When; 0 if it is not. */
  paired: number
  addresses: string[]
  /** Where the link to it is. */
  address: string
  seen: string[]
  version: string
  /** Where its panel is. */
  url: string
  offset: number
  latency: number
  /** What it may do here, and what it lets this engine do. */
  roles: PeerRoles
  allows: PeerRoles
  offers: PeerOffers
}

/** A code that somebody may still come with; without a name it is for whoever has it. */
export interface PeerPairing {
  name: string
  expires: number
  roles: PeerRoles
}

export interface MadePeerPairing extends PeerPairing {
  /** Shown this once. */
  code: string
  port: number
}

export interface Join {
  code: string
  /** Left out: whichever is found on the network and has the code. */
  address?: string
  roles?: PeerRoles
}

export interface PeerChange {
  name?: string
  roles?: PeerRoles
  /** Its data was moved to another machine for good. */
  moved?: boolean
}

export interface SeenRun {
  run: string
  flow: string
  flow_name: string
  state: RunState
  accepted: number
  finished: number | null
  error: string
}

export interface SeenFlow {
  id: string
  name: string
  workspace: string
  live: number | null
  enabled: boolean
  updated: number
}

/** How an engine is: what runs, what asks for a person, what failed in the last day. */
export interface BoxSummary {
  runs: number
  waiting: number
  needs_me: number
  failed_day: number
  failed_more: boolean
  flows: number
  live: number
  off: number
  failures: SeenRun[]
}

/** An engine with what it tells of itself, or with why it does not. */
export interface Box<T = BoxSummary> {
  id: string
  name: string
  state: PeerStanding
  text: string
  url: string
  error: string
  told: T | null
}

export interface FoundThere {
  flows: SeenFlow[]
  runs: SeenRun[]
}

/** A step that is at another engine, or waits for one; `cut`: an engine has it, and the link to that is gone. */
export interface AwayStep {
  run: string
  flow: string
  workspace: string
  node: string
  needs: string[]
  state: 'waiting' | 'bound' | 'cut'
  peer: string
  name: string
  there: string
  since: number
  until: number
}

/** Events that wait for an engine, since when, and how many had to be left out. */
export interface Outbox {
  peer: string
  waiting: number
  since: number | null
  lost: number
}

export interface Placements {
  steps: AwayStep[]
  outbox: Outbox[]
}

export interface SendFlow {
  to: string
  workspace?: string
  move: boolean
}

/** What has become of a flow at the engine that it was sent to. */
export interface SentFlow {
  peer: string
  flow: string
  workspace: string
  versions: number
  moved: boolean
  /** Those that have to be set there. */
  secrets: string[]
  problems: Problem[]
}

export const listPeers = (signal?: AbortSignal): Promise<Page<PeerState>> => get('/peers', {}, signal)

/** For half a minute; what is found is told live. */
export const lookForPeers = (): Promise<void> => post('/peers/look')

export const listPeerPairings = (signal?: AbortSignal): Promise<Page<PeerPairing>> => get('/peers/pairings', {}, signal)

export const pairPeer = (roles: PeerRoles, minutes?: number): Promise<MadePeerPairing> => post('/peers/pairings', { roles, minutes })

export const endPeerPairing = (name: string): Promise<void> => remove(`/peers/pairings/${seg(name || '-')}`)

export const joinPeer = (join: Join): Promise<PeerState> => post('/peers/join', join)

export const changePeer = (id: string, change: PeerChange): Promise<PeerState> => patch(`/peers/${seg(id)}`, change)

export const revokePeer = (id: string): Promise<void> => remove(`/peers/${seg(id)}`)

export const listPlacements = (workspace: string, signal?: AbortSignal): Promise<Placements> => get('/placements', { workspace }, signal)

/** All engines with how they are, this one first. */
export const showBoxes = async (workspace: string, signal?: AbortSignal): Promise<Box[]> =>
  (await get<{ items: Box[] }>('/placements/boxes', { workspace }, signal)).items

/** Flows and runs of all engines that have a text in them. */
export const searchBoxes = async (text: string, workspace: string, signal?: AbortSignal): Promise<Box<FoundThere>[]> =>
  (await get<{ items: Box<FoundThere>[] }>('/placements/search', { text, workspace }, signal)).items

/** What sending a flow would find there: the secrets that have to be given anew. */
export interface SendPreview {
  peer: string
  workspace: string
  secrets: string[]
}

export const previewSend = (flow: string, to: string, workspace: string, signal?: AbortSignal): Promise<SendPreview> =>
  get(`/flows/${seg(flow)}/send`, { to, workspace: workspace || undefined }, signal)
export const sendFlow = (flow: string, how: SendFlow): Promise<SentFlow> => post(`/flows/${seg(flow)}/send`, how)
