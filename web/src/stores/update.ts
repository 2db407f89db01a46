/** How an update goes: asked again and again while one is under way, also while everything is started anew for it. */

import { defineStore } from 'pinia'
import { computed, ref, shallowRef } from 'vue'
import { ApiError } from '@/api/client'
import * as api from '@/api/update'
import { useLoaded } from '@/lib/loaded'
import { sendInParts } from '@/lib/parts'

/** Milliseconds between two looks. */
const ROUND = 3000
/** The moments of an update in their order, as people call them. */
export const MOMENTS: readonly [api.UpdatePhase, string][] = [
  ['unpacking', 'Checking its signature, and unpacking it'],
  ['preparing', 'Making it ready beside the version that runs'],
  ['rehearsing', 'Trying its form of the database on a copy'],
  ['switching', 'Starting everything anew with it'],
  ['watching', 'Watching for five minutes whether all is well'],
]

export const useUpdate = defineStore('update', () => {
  const { value, loading, error, load } = useLoaded(api.showUpdate)
  const peers = useLoaded(api.showAtPeers)
  const phase = computed(() => value.value?.state.phase ?? 'none')
  const underWay = computed(() => value.value?.waiting === true || phase.value === 'returning' || MOMENTS.some(([name]) => name === phase.value))

  let users = 0
  let timer: ReturnType<typeof setTimeout> | undefined

  async function round(): Promise<void> {
    await load()
    clearTimeout(timer)
    const soon = underWay.value || error.value !== null || value.value?.fetching != null
    // Nothing is under way: look whether a stick was plugged in, less often.
    if (users > 0) timer = setTimeout(() => void round(), soon ? ROUND : 3 * ROUND)
  }

  /** Keep it up to date until the returned function is called. */
  function watch(): () => void {
    if (users++ === 0) {
      void round()
      void peers.load()
    }
    return () => {
      if (--users === 0) clearTimeout(timer)
    }
  }

  /** Hand a release over; without a source the one that was sent. Rejects with why it was not taken. */
  async function bring(source: string): Promise<void> {
    // How far the engine's own fetching is, is seen meanwhile.
    clearTimeout(timer)
    timer = setTimeout(() => void round(), ROUND / 3)
    value.value = await api.bringRelease(source)
    sent.value = null
    void round()
  }

  async function goBack(): Promise<void> {
    value.value = await api.goBack()
    void round()
  }

  /** Look at the source of the setting, and at what peers have. */
  async function look(): Promise<void> {
    const peersLooked = peers.load()
    try {
      if (value.value?.source) await api.lookAt()
    } catch (problem) {
      // It is told with the rest: `looked.error`.
      if (!(problem instanceof ApiError) || problem.away) throw problem
    }
    await Promise.all([peersLooked, load()])
  }

  // --- a file of this computer ---------------------------------------------------------------------

  /** The file that is being sent: its name, and bytes. */
  const sending = ref<{ name: string; done: number; size: number } | null>(null)
  /** It is there, whole. */
  const sent = shallowRef<{ name: string; found: api.Available } | null>(null)
  const sendProblem = ref('')
  let running: AbortController | null = null

  async function send(file: File): Promise<void> {
    const mine = (running = new AbortController())
    sending.value = { name: file.name, done: 0, size: file.size }
    sent.value = null
    sendProblem.value = ''
    try {
      const last = await sendInParts(file, api.sendRelease, mine.signal, (done) => (sending.value = { name: file.name, done, size: file.size }))
      if (last.found) sent.value = { name: file.name, found: last.found }
    } catch (problem) {
      if (mine.signal.aborted) return
      if (!(problem instanceof Error)) throw problem
      sendProblem.value = problem.message
      await drop()
    } finally {
      if (running === mine) sending.value = running = null
    }
  }

  /** Forget what was sent, or is being sent. */
  async function forget(): Promise<void> {
    running?.abort()
    sending.value = sent.value = running = null
    sendProblem.value = ''
    await drop()
  }

  async function drop(): Promise<void> {
    try {
      await api.forgetRelease()
    } catch (problem) {
      // The engine deletes by itself what breaks off.
      if (!(problem instanceof ApiError)) throw problem
    }
  }

  return { value, loading, error, phase, underWay, peers, sending, sent, sendProblem, load, watch, bring, goBack, look, send, forget }
})
