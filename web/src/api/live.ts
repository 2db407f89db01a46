/**
 * The one WebSocket over which everything live comes.
 *
 * After a cut it goes on behind the last event that was seen, so that nothing is lost or doubled. Where the engine
 * cannot do that it says `reset`, and what is shown must be loaded anew.
 */

import { currentEngine } from './client'
import type { PeerState } from './peers'

/** One step in a run's event. */
export interface LiveStep {
  node: string
  state: string
  [key: string]: unknown
}

/** A run has moved; `steps` is what is new. */
export interface LiveRun {
  type: 'run'
  id: string
  run: string
  flow: string
  version: number | null
  /** Empty, or the node whose body this is a run of. */
  place: string
  trigger: string
  state: string
  accepted: number
  finished: number | null
  parent: string | null
  origin: string | null
  error: unknown
  letter: string
  steps: LiveStep[]
  [key: string]: unknown
}

/** What devices of an agent say now. */
export interface LiveDevices {
  type: 'devices'
  id: string
  agent: string
  values: { device: string; entity: string; driver: string; value: unknown; kind: string; time: number }[]
}

/** An agent has come, gone, or runs other drivers. */
export interface LiveAgent {
  type: 'agent'
  id: string
  agent: { name: string; online: boolean; revoked?: boolean }
}

/**
 * A step of a run shows what it makes, such as a model's words: `text` stands behind the first `from` characters of it,
 * and from 0 it begins anew. Or a draft (`draft` is the asker's own id) tells how far it is. Of the moment only.
 */
export interface LiveText {
  type: 'stream'
  run?: string
  flow?: string
  node?: string
  attempt?: number
  from?: number
  draft?: string
  text: string
}

/** Making the engine for models, or fetching one, goes on: ask how. */
export interface LiveModels {
  type: 'models'
  setup?: unknown
  pull?: unknown
}

/** An engine has come, gone, or offers something else; of one that is not known any more only this is told. */
export interface LivePeer {
  type: 'peer'
  id: string
  peer: PeerState | { id: string; state: 'gone' | 'revoked' }
}

export type LiveEvent =
  | { type: 'hello'; id: string }
  | { type: 'reset'; id: string }
  | { type: 'kernel'; up: boolean }
  | LiveText
  | LiveModels
  | LiveRun
  | LiveDevices
  | LiveAgent
  | LivePeer

/** `connecting`: not yet; `live`: all is well; `cut`: it was and is tried again. */
export type LiveState = 'off' | 'connecting' | 'live' | 'cut'

export interface LiveListener {
  events: (events: readonly LiveEvent[]) => void
  state: (state: LiveState) => void
  /** A try to connect was refused or did not reach anybody; a browser does not say which. */
  refused: () => void
}

/** Milliseconds between tries, doubled each time; a spread keeps many panels from coming at once. */
const FIRST_RETRY = 300
const LONGEST_RETRY = 10_000
/** A page that slept this long (ms) may hold a socket whose other end is long gone. */
const NAP = 30_000

/** How far each kernel has been heard, of `<life>-<number>,…`. */
function heard(id: string): Map<string, number> {
  const parts = id.split(',').map((part) => [part.slice(0, part.lastIndexOf('-')), part.slice(part.lastIndexOf('-') + 1)] as const)
  return new Map(parts.filter(([life]) => life !== '').map(([life, number]) => [life, Number(number)]))
}

export class Live {
  private socket: WebSocket | null = null
  private timer: ReturnType<typeof setTimeout> | undefined
  private pulse: ReturnType<typeof setInterval> | undefined
  private heard = new Map<string, number>()
  private retry = FIRST_RETRY
  private reached = false
  private awake = 0

  constructor(private readonly listener: LiveListener) {}

  /** Connect and stay connected until the returned function is called. */
  start(): () => void {
    this.awake = Date.now()
    this.pulse = setInterval(this.notice, NAP / 3)
    window.addEventListener('online', this.again)
    document.addEventListener('visibilitychange', this.notice)
    this.connect()
    return () => {
      clearInterval(this.pulse)
      clearTimeout(this.timer)
      window.removeEventListener('online', this.again)
      document.removeEventListener('visibilitychange', this.notice)
      this.drop()
      this.listener.state('off')
    }
  }

  /** Try at once. */
  readonly again = (): void => {
    this.retry = FIRST_RETRY
    clearTimeout(this.timer)
    this.drop()
    this.connect()
  }

  private readonly notice = (): void => {
    const slept = Date.now() - this.awake > NAP
    this.awake = Date.now()
    if (slept && document.visibilityState === 'visible') this.again()
  }

  private drop(): void {
    const socket = this.socket
    this.socket = null
    if (socket === null) return
    socket.onopen = socket.onmessage = socket.onclose = null
    socket.close()
  }

  private connect(): void {
    const { base, token } = currentEngine()
    const url = new URL(`${base || location.origin}/api/v1/live`)
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:'
    const after = [...this.heard].map(([life, number]) => `${life}-${number}`).join()
    if (after) url.searchParams.set('after', after)
    if (!this.reached) this.listener.state('connecting')
    const protocols = token ? ['flowork', `flowork.bearer.${token}`] : ['flowork']
    const socket = new WebSocket(url, protocols)
    let opened = false
    this.socket = socket
    socket.onopen = () => {
      opened = true
      this.reached = true
      this.retry = FIRST_RETRY
      this.listener.state('live')
    }
    socket.onmessage = (message: MessageEvent<string>) => this.take(JSON.parse(message.data) as LiveEvent[])
    socket.onclose = () => {
      this.socket = null
      this.listener.state(this.reached ? 'cut' : 'connecting')
      if (!opened) this.listener.refused()
      this.timer = setTimeout(() => this.connect(), this.retry * (0.75 + Math.random() / 2))
      this.retry = Math.min(this.retry * 2, LONGEST_RETRY)
    }
  }

  /** Hand on what was not seen yet. */
  private take(events: readonly LiveEvent[]): void {
    const news = events.filter((event) => {
      // What has no id is of the moment: it is not numbered, and does not come again.
      if (!('id' in event)) return true
      const now = heard(event.id)
      if (event.type === 'hello' || event.type === 'reset') {
        this.heard = now
        return true
      }
      let isNews = false
      for (const [life, number] of now) {
        if (number <= (this.heard.get(life) ?? -1)) continue
        this.heard.set(life, number)
        isNews = true
      }
      return isNews
    })
    if (news.length > 0) this.listener.events(news)
  }
}
