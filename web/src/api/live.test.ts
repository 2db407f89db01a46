import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { useEngine } from './client'
import { Live, type LiveEvent, type LiveState } from './live'

class Socket {
  static all: Socket[] = []
  onopen: (() => void) | null = null
  onmessage: ((message: { data: string }) => void) | null = null
  onclose: (() => void) | null = null
  closed = false

  constructor(
    readonly url: URL,
    readonly protocols: string[],
  ) {
    Socket.all.push(this)
  }

  close(): void {
    this.closed = true
  }

  say(...events: unknown[]): void {
    this.onmessage?.({ data: JSON.stringify(events) })
  }
}

const last = (): Socket => Socket.all.at(-1)!
const run = (id: string): unknown => ({ type: 'run', id, run: 'r', flow: 'f', state: 'running', steps: [] })

let states: LiveState[]
let events: LiveEvent[]
let refused: number
let stop: () => void

beforeEach(() => {
  vi.useFakeTimers()
  vi.stubGlobal('WebSocket', Socket)
  Socket.all = []
  states = []
  events = []
  refused = 0
  useEngine({ base: 'http://box.local:5000', token: '' })
  stop = new Live({
    state: (state) => states.push(state),
    events: (news) => events.push(...news),
    refused: () => refused++,
  }).start()
})
afterEach(() => {
  stop()
  vi.useRealTimers()
  vi.unstubAllGlobals()
})

describe('the stream', () => {
  it('goes on behind the last event after a cut', () => {
    last().onopen?.()
    last().say({ type: 'hello', id: 'e-3' }, run('e-4'), run('e-5'))
    last().onclose?.()
    expect(states.at(-1)).toBe('cut')
    vi.advanceTimersByTime(1000)
    expect(Socket.all).toHaveLength(2)
    expect(last().url.searchParams.get('after')).toBe('e-5')
    last().onopen?.()
    expect(states.at(-1)).toBe('live')
  })

  it('hands on nothing twice', () => {
    last().onopen?.()
    last().say(run('e-1'), run('e-2'))
    last().say(run('e-2'), run('e-3'))
    expect(events.map((event) => (event as { id: string }).id)).toEqual(['e-1', 'e-2', 'e-3'])
  })

  it('begins a new count with a new kernel', () => {
    last().onopen?.()
    last().say(run('e-9'), { type: 'reset', id: 'f-0' }, run('f-1'))
    expect(events.map((event) => event.type)).toEqual(['run', 'reset', 'run'])
  })

  it('tells each time that the kernel went and came', () => {
    last().onopen?.()
    last().say({ type: 'kernel', up: true })
    last().say({ type: 'kernel', up: false })
    last().say({ type: 'kernel', up: true })
    expect(events).toHaveLength(3)
  })

  it('tries less and less often, and at once when the network is back', () => {
    for (let n = 0; n < 8; n++) {
      last().onclose?.()
      vi.advanceTimersByTime(12_600)
    }
    expect(refused).toBe(8)
    const tries = Socket.all.length
    last().onclose?.()
    vi.advanceTimersByTime(5000)
    expect(Socket.all.length).toBe(tries)
    window.dispatchEvent(new Event('online'))
    expect(Socket.all.length).toBe(tries + 1)
  })

  it('drops a socket that it slept over', () => {
    last().onopen?.()
    const before = last()
    vi.setSystemTime(Date.now() + 120_000)
    document.dispatchEvent(new Event('visibilitychange'))
    expect(before.closed).toBe(true)
    expect(Socket.all).toHaveLength(2)
  })

  it('ends for good', () => {
    last().onopen?.()
    const socket = last()
    stop()
    vi.advanceTimersByTime(60_000)
    expect(socket.closed).toBe(true)
    expect(Socket.all).toHaveLength(1)
    expect(states.at(-1)).toBe('off')
  })
})

it('sends a token as a subprotocol, which is all that a browser can send', () => {
  stop()
  useEngine({ base: 'https://box.local', token: 'flw_x' })
  stop = new Live({ state: () => undefined, events: () => undefined, refused: () => undefined }).start()
  expect(last().url.href).toBe('wss://box.local/api/v1/live')
  expect(last().protocols).toEqual(['flowork', 'flowork.bearer.flw_x'])
})
