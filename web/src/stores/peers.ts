/** Engines beside this one, as they come, go and are paired; and how all of them are. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import * as api from '@/api/peers'
import type { LivePeer } from '@/api/live'
import { useFollowed, useLoaded } from '@/lib/loaded'
import { useLive } from './live'
import { useSession } from './session'

/** Milliseconds in which what moved is gathered before engines are asked how they are; between two rounds of that. */
const GATHER = 500
const ROUND = 5_000

export const usePeers = defineStore('peers', () => {
  const live = useLive()
  const session = useSession()
  const listed = useFollowed(async (signal) => (await api.listPeers(signal)).items, told)
  const pairings = useLoaded(async (signal) => (session.may('peers:manage') ? (await api.listPeerPairings(signal)).items : []))
  const boxes = useLoaded((signal) => api.showBoxes(session.workspace, signal))
  const placements = useLoaded((signal) => api.listPlacements(session.workspace, signal))
  const items = computed(() => listed.value.value ?? [])
  const me = computed(() => items.value.find((one) => one.state === 'self') ?? null)
  const paired = computed(() => items.value.filter((one) => one.state !== 'self' && one.paired > 0))
  const found = computed(() => items.value.filter((one) => one.state !== 'self' && one.paired === 0))
  const byId = computed(() => new Map(items.value.map((one) => [one.id, one])))
  const summaries = computed(() => new Map((boxes.value.value ?? []).map((box) => [box.id, box])))

  const load = (): Promise<unknown> => Promise.all([listed.load(), pairings.load(), boxes.load(), placements.load()])

  let gathering: ReturnType<typeof setTimeout> | undefined
  function soon(): void {
    gathering ??= setTimeout(() => {
      gathering = undefined
      for (const one of [boxes, placements, pairings]) one.again()
    }, GATHER)
  }

  let users = 0
  let round: ReturnType<typeof setInterval> | undefined
  /** Keep it up to date until the returned function is called. */
  function watch(): () => void {
    if (users++ === 0) {
      void load()
      round = setInterval(() => {
        if (document.visibilityState === 'visible') void Promise.all([boxes.load(), placements.load()])
      }, ROUND)
    }
    return () => {
      if (--users === 0) clearInterval(round)
    }
  }

  function take(news: readonly LivePeer[]): void {
    const before = new Map(items.value.map((one) => [one.id, one.state]))
    listed.take(news)
    // What it offers changes all the time, and tells nothing of runs.
    if (users > 0 && news.some(({ peer }) => before.get(peer.id) !== peer.state)) soon()
    if (news.some(({ peer }) => peer.state === 'revoked')) listed.again()
  }
  live.watchPeers(take)
  live.watchRuns(() => users > 0 && soon())
  live.watchReset(() => users > 0 && void load())

  /** Into the list at once, without waiting to hear of it. */
  function put(peer: api.PeerState): api.PeerState {
    listed.value.value = merged(items.value, peer)
    return peer
  }

  async function pair(roles: api.PeerRoles): Promise<api.MadePeerPairing> {
    const made = await api.pairPeer(roles)
    void pairings.load()
    return made
  }

  async function unpair(name: string): Promise<void> {
    await api.endPeerPairing(name)
    await pairings.load()
  }

  async function join(how: api.Join): Promise<api.PeerState> {
    const peer = put(await api.joinPeer(how))
    soon()
    return peer
  }

  const change = async (id: string, change: api.PeerChange): Promise<api.PeerState> => put(await api.changePeer(id, change))

  async function revoke(id: string): Promise<void> {
    await api.revokePeer(id)
    await load()
  }

  return {
    listed, pairings, boxes, placements, items, me, paired, found, byId, summaries,
    load, watch, pair, unpair, join, change, revoke, look: api.lookForPeers,
    search: (text: string, signal?: AbortSignal) => api.searchBoxes(text, session.workspace, signal),
    send: api.sendFlow,
  }
})

const told = (peers: api.PeerState[], news: readonly LivePeer[]): api.PeerState[] => news.reduce((all, { peer }) => merged(all, peer), peers)

/** The list with one engine as it is now: this one first, then the paired ones, each by name. */
export function merged(peers: readonly api.PeerState[], now: LivePeer['peer']): api.PeerState[] {
  const others = peers.filter((one) => one.id !== now.id)
  if (!isThere(now)) return others
  const place = (one: api.PeerState): number => (one.state === 'self' ? 0 : one.paired ? 1 : 2)
  return [...others, now].sort((a, b) => place(a) - place(b) || a.name.localeCompare(b.name) || a.id.localeCompare(b.id))
}

const isThere = (peer: LivePeer['peer']): peer is api.PeerState => peer.state !== 'gone' && peer.state !== 'revoked'
