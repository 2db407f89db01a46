/** Engines in words: how one stands to this one, what it may do, what a node needs of one. */

import type { PeerRight, PeerRoles, PeerStanding, PeerState } from '@/api/peers'
import { EVERYWHERE } from '@/stores/workspaces'

export const LABELS: Record<PeerStanding, string> = {
  self: 'this engine',
  connected: 'connected',
  away: 'away',
  refused: 'not let in',
  clone: 'copied',
  found: 'not paired',
}

export const TONES: Record<PeerStanding, 'plain' | 'accent' | 'warning' | 'danger'> = {
  self: 'plain',
  connected: 'accent',
  away: 'warning',
  refused: 'danger',
  clone: 'danger',
  found: 'plain',
}

/** What an engine can be let do, the harmless first. */
export const RIGHTS: readonly { right: PeerRight; label: string; short: string; help: string }[] = [
  { right: 'models', label: 'Ask the models of this engine', short: 'ask models', help: 'It costs computing time here. It sees nothing of what is here.' },
  { right: 'flows', label: 'See flows and runs, and send flows here', short: 'see and send flows', help: 'It sees their names, how runs went and why they failed. What it sends does nothing until somebody deploys it here.' },
  { right: 'events', label: 'Send events to flows here', short: 'send events', help: 'Flows with the trigger “peer event” start by them.' },
  { right: 'run', label: 'Run steps here', short: 'run steps', help: 'Its flows can use devices, files and programs of this machine. Only for engines that you would let do everything here.' },
]

/** `models` is bound to no workspace. */
export const isBound = (rights: readonly PeerRight[]): boolean => rights.some((right) => right !== 'models')

/** What can be sent: no workspaces where nothing is bound to one, and all of them instead of each. */
export function tidy({ rights, workspaces }: PeerRoles): PeerRoles {
  const known = RIGHTS.map((one) => one.right).filter((right) => rights.includes(right))
  if (!isBound(known)) return { rights: known, workspaces: [] }
  return { rights: known, workspaces: workspaces.includes(EVERYWHERE) ? [EVERYWHERE] : [...workspaces].sort() }
}

/** Why roles cannot be given like that; empty if they can. */
export const faultOf = ({ rights, workspaces }: PeerRoles): string =>
  isBound(rights) && workspaces.length === 0 ? 'Choose a workspace for what it may do.' : ''

/** `ask models, run steps in garden`. */
export function rolesWords(roles: PeerRoles): string {
  const { rights, workspaces } = tidy(roles)
  if (rights.length === 0) return 'nothing'
  const free = RIGHTS.filter((one) => rights.includes(one.right)).map((one) => one.short).join(', ')
  if (!isBound(rights)) return free
  return `${free} in ${workspaces.includes(EVERYWHERE) ? 'all workspaces' : workspaces.join(', ') || 'no workspace'}`
}

/** A fingerprint as two people compare it: groups of four. */
export const groups = (fingerprint: string): string => fingerprint.replace(/(.{4})(?=.)/g, '$1 ')

/** A text with its `commands`: every other part is one. */
export const parts = (text: string): string[] => text.split('`')

/** A code as it is shown, of one as it is typed; empty if it is none. */
export function codeOf(typed: string): string {
  const found = /^(\d{1,4})[- ]?(\d{3})[- ]?(\d{3})$/.exec(typed.trim())
  return found ? found.slice(1).join('-') : ''
}

/** What a node can ask for, with who has it. */
export function offered(peers: readonly PeerState[]): { need: string; who: string }[] {
  const found = new Map<string, string[]>()
  const add = (need: string, peer: PeerState): void => void found.set(need, [...(found.get(need) ?? []), peer.name])
  for (const peer of peers) {
    if (peer.state === 'found') continue
    add(`engine:${peer.name}`, peer)
    for (const model of peer.offers.models) add(`model:${model.name}`, peer)
    for (const device of peer.offers.devices) add(`device:${device.replace(/^\//, '')}`, peer)
  }
  return [...found].map(([need, who]) => ({ need, who: who.join(', ') })).sort((a, b) => a.need.localeCompare(b.need))
}

/** Where something of an engine is in its own panel; empty if that is not known. */
export const linkTo = (url: string, path: string): string => (url ? `${url}${path}` : '')

/** What a node needs, as a list: it may be written as text with commas. */
export const listOf = (needs: string | readonly string[] | null | undefined): string[] =>
  [...new Set((typeof needs === 'string' ? needs.split(',') : (needs ?? [])).map((one) => one.trim()).filter(Boolean))]
