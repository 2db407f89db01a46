/** What is live: whether the engine is connected, and everything that comes over the one WebSocket. */

import { defineStore } from 'pinia'
import { onScopeDispose, ref } from 'vue'
import { Live, type LiveAgent, type LiveDevices, type LiveEvent, type LiveModels, type LivePeer, type LiveRun, type LiveState, type LiveText } from '@/api/live'
import { useSession } from './session'

/** Milliseconds that a page's first look may wait for the socket. */
const PATIENCE = 150

export const useLive = defineStore('live', () => {
  const state = ref<LiveState>('off')
  /** Null: not known yet. */
  const kernelUp = ref<boolean | null>(null)
  /** When it was cut; Unix seconds. */
  const since = ref<number | null>(null)
  const onRun = new Set<(runs: readonly LiveRun[]) => void>()
  const onDevices = new Set<(news: readonly (LiveDevices | LiveAgent)[]) => void>()
  const onText = new Set<(texts: readonly LiveText[]) => void>()
  const onModels = new Set<(news: readonly LiveModels[]) => void>()
  const onPeers = new Set<(news: readonly LivePeer[]) => void>()
  const onReset = new Set<() => void>()
  let stop: (() => void) | null = null
  let hearing: Promise<void> | null = null
  /** Something may have been loaded before it was heard what happens; and what ends the waiting for that. */
  let late = false
  let heard = (): void => undefined

  const live = new Live({ events: take, state: said, refused: () => void useSession().load() })

  function take(events: readonly LiveEvent[]): void {
    const runs: LiveRun[] = []
    const devices: (LiveDevices | LiveAgent)[] = []
    const texts: LiveText[] = []
    const models: LiveModels[] = []
    const peers: LivePeer[] = []
    let reset = false
    for (const event of events) {
      if (event.type === 'run') runs.push(event)
      else if (event.type === 'devices' || event.type === 'agent') devices.push(event)
      else if (event.type === 'stream') texts.push(event)
      else if (event.type === 'models') models.push(event)
      else if (event.type === 'peer') peers.push(event)
      else if (event.type === 'kernel') kernelUp.value = event.up
      else if (event.type === 'reset' || (event.type === 'hello' && late)) reset = true
      if (event.type === 'hello') heard()
    }
    if (reset) onReset.forEach((listener) => listener())
    // Before the runs: a step's words come before its end.
    if (texts.length > 0) onText.forEach((listener) => listener(texts))
    if (runs.length > 0) onRun.forEach((listener) => listener(runs))
    if (devices.length > 0) onDevices.forEach((listener) => listener(devices))
    if (models.length > 0) onModels.forEach((listener) => listener(models))
    if (peers.length > 0) onPeers.forEach((listener) => listener(peers))
  }

  function said(now: LiveState): void {
    if (now === 'cut' && state.value !== 'cut') since.value = Date.now() / 1000
    if (now !== 'cut') since.value = null
    state.value = now
  }

  /**
   * Resolves once everything that happens from now on is heard: what is loaded then misses nothing. Or after a moment,
   * since nobody is to wait for it; then what was loaded is loaded anew when it is heard.
   */
  function start(): Promise<void> {
    if (hearing !== null) return hearing
    late = false
    hearing = new Promise((resolve) => {
      const timer = setTimeout(() => {
        late = true
        resolve()
      }, PATIENCE)
      heard = () => {
        late = false
        clearTimeout(timer)
        resolve()
      }
    })
    stop = live.start()
    return hearing
  }

  function end(): void {
    stop?.()
    heard()
    stop = hearing = null
    kernelUp.value = null
  }

  /** Runs that moved, as they do, until the caller's scope ends. */
  function watchRuns(listener: (runs: readonly LiveRun[]) => void): void {
    onRun.add(listener)
    onScopeDispose(() => onRun.delete(listener))
  }

  /** What devices say and agents do, until the caller's scope ends. */
  function watchDevices(listener: (news: readonly (LiveDevices | LiveAgent)[]) => void): void {
    onDevices.add(listener)
    onScopeDispose(() => onDevices.delete(listener))
  }

  /** What steps and drafts show while they work, until the caller's scope ends. */
  function watchTexts(listener: (texts: readonly LiveText[]) => void): void {
    onText.add(listener)
    onScopeDispose(() => onText.delete(listener))
  }

  /** How making the engine for models and fetching them goes, until the caller's scope ends. */
  function watchModels(listener: (news: readonly LiveModels[]) => void): void {
    onModels.add(listener)
    onScopeDispose(() => onModels.delete(listener))
  }

  /** Engines that come, go or change, until the caller's scope ends. */
  function watchPeers(listener: (news: readonly LivePeer[]) => void): void {
    onPeers.add(listener)
    onScopeDispose(() => onPeers.delete(listener))
  }

  /** Something was missed: load anew what is shown. Until the caller's scope ends. */
  function watchReset(listener: () => void): void {
    onReset.add(listener)
    onScopeDispose(() => onReset.delete(listener))
  }

  return { state, kernelUp, since, start, end, again: () => live.again(), watchRuns, watchDevices, watchTexts, watchModels, watchPeers, watchReset }
})
