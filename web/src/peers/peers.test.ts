import { createPinia, setActivePinia } from 'pinia'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { LiveEvent, LiveListener } from '@/api/live'
import type { PeerState } from '@/api/peers'
import { merged, usePeers } from '@/stores/peers'
import { useSession } from '@/stores/session'
import { codeOf, faultOf, groups, listOf, offered, parts, rolesWords, tidy } from './words'

/** What the engine answers, by method and path; and what it was asked. */
let engine: Record<string, unknown>
let asked: { what: string; body: unknown }[]
let listener: LiveListener

vi.mock('@/api/live', () => ({
  Live: class {
    constructor(given: LiveListener) {
      listener = given
    }
    start = (): (() => void) => () => undefined
    again = (): void => undefined
  },
}))

const NOTHING = { rights: [], workspaces: [] }
const offers = (more: object = {}): PeerState['offers'] => ({ models: [], devices: [], nodes: [], memory: 0, memory_free: 0, cores: 0, load: 0, runs: 0, exact: true, ...more })
const peer = (name: string, more: Partial<PeerState> = {}): PeerState => ({
  id: `id-${name}`, name, calls_itself: name, fingerprint: '', state: 'connected', text: '', why: '', hint: '', since: 0, paired: 5, addresses: [], address: '',
  seen: [], version: '1', url: '', offset: 0, latency: 0, roles: NOTHING as PeerState['roles'], allows: NOTHING as PeerState['allows'], offers: offers(), ...more,
})
const pi = peer('pi', { state: 'self', paired: 0 })
const say = (...events: unknown[]): void => listener.events(events as LiveEvent[])
const told = (one: object, n = 1): object => ({ type: 'peer', id: `e-${n}`, peer: one })

beforeEach(async () => {
  setActivePinia(createPinia())
  asked = []
  engine = {
    'GET /session': { signed_in: true, kind: 'user', id: '0x1', name: 'Ada', roles: {}, scopes: [], permissions: { '*': ['peers:read', 'peers:manage'] }, engine: { id: 'e', version: '1' } },
    'GET /openapi.json': { info: { version: '1' }, paths: {} },
    'GET /peers': { items: [pi, peer('laptop'), peer('attic', { state: 'found', paired: 0 })], next: '' },
    'GET /peers/pairings': { items: [], next: '' },
    'GET /placements': { steps: [], outbox: [] },
    'GET /placements/boxes': { items: [{ id: 'id-laptop', name: 'laptop', state: 'connected', text: '', url: '', error: '', told: { runs: 3 } }] },
  }
  vi.stubGlobal('fetch', (url: string, how: RequestInit) => {
    const what = `${how.method} ${url.replace('/api/v1', '').split('?')[0]!}`
    asked.push({ what, body: how.body ? JSON.parse(how.body as string) : undefined })
    const found = engine[what]
    const status = found === undefined ? 404 : 200
    const body = found ?? { type: '#not-found', title: 'Not Found', status }
    return Promise.resolve(new Response(JSON.stringify(body), { status, headers: { 'Content-Type': 'application/json' } }))
  })
  await useSession().load()
})
afterEach(() => vi.unstubAllGlobals())

const times = (what: string): number => asked.filter((one) => one.what === what).length

describe('engines', () => {
  it('are this one, the paired ones, and those that were found', async () => {
    const peers = usePeers()
    await peers.load()
    expect([peers.me!.name, peers.paired.map((one) => one.name), peers.found.map((one) => one.name)]).toEqual(['pi', ['laptop'], ['attic']])
    expect(peers.summaries.get('id-laptop')!.told!.runs).toBe(3)
  })

  it('change as it is told, and are asked how they are only when one came or went', async () => {
    vi.useFakeTimers()
    const peers = usePeers()
    const stop = peers.watch()
    await vi.waitFor(() => expect(peers.boxes.value).not.toBeNull())
    const before = times('GET /placements/boxes')
    say(told(peer('laptop', { offers: offers({ load: 2 }) })))
    await vi.advanceTimersByTimeAsync(1000)
    expect(peers.byId.get('id-laptop')!.offers.load).toBe(2)
    expect(times('GET /placements/boxes')).toBe(before)
    say(told(peer('laptop', { state: 'away' })))
    await vi.advanceTimersByTimeAsync(1000)
    expect(peers.byId.get('id-laptop')!.state).toBe('away')
    expect(times('GET /placements/boxes')).toBe(before + 1)
    stop()
    await vi.advanceTimersByTimeAsync(60_000)
    expect(times('GET /placements/boxes')).toBe(before + 1)
    vi.useRealTimers()
  })

  it('that were revoked or are gone are not shown, until they are found again', async () => {
    const peers = usePeers()
    await peers.load()
    say(told({ id: 'id-attic', state: 'gone' }))
    expect(peers.found).toEqual([])
    engine['GET /peers'] = { items: [pi, peer('laptop', { state: 'found', paired: 0 })], next: '' }
    say(told({ id: 'id-laptop', name: 'laptop', state: 'revoked' }))
    expect(peers.paired).toEqual([])
    await vi.waitFor(() => expect(peers.found.map((one) => one.name)).toEqual(['laptop']))
  })

  it('stand in one order, whatever was heard first', () => {
    const list = [peer('zoo'), pi, peer('attic', { state: 'found', paired: 0 })]
    expect(merged(list, peer('bed')).map((one) => one.name)).toEqual(['pi', 'bed', 'zoo', 'attic'])
  })

  it('are in the list at once when they were paired or changed here', async () => {
    const peers = usePeers()
    await peers.load()
    engine['POST /peers/join'] = peer('robot')
    await peers.join({ code: '1-222-333', roles: { rights: ['models'], workspaces: [] } })
    engine['PATCH /peers/id-robot'] = peer('arm', { id: 'id-robot' })
    await peers.change('id-robot', { name: 'arm' })
    expect(peers.paired.map((one) => one.name)).toEqual(['arm', 'laptop'])
    expect(asked.find((one) => one.what === 'POST /peers/join')!.body).toEqual({ code: '1-222-333', roles: { rights: ['models'], workspaces: [] } })
  })

  it('tell why they could not be asked, and keep what was known', async () => {
    const peers = usePeers()
    await peers.load()
    delete engine['GET /peers']
    await peers.load()
    expect(peers.listed.error!.id).toBe('not-found')
    expect(peers.paired).toHaveLength(1)
  })
})

describe('rights', () => {
  it('are nothing until somebody says more, and name workspaces only where these count', () => {
    expect(tidy({ rights: ['models'], workspaces: ['default'] })).toEqual({ rights: ['models'], workspaces: [] })
    expect(tidy({ rights: ['run', 'models'], workspaces: ['house', '*'] })).toEqual({ rights: ['models', 'run'], workspaces: ['*'] })
    expect(faultOf({ rights: ['run'], workspaces: [] })).not.toBe('')
    expect(faultOf({ rights: ['models'], workspaces: [] })).toBe('')
  })

  it('are told in words', () => {
    expect(rolesWords({ rights: [], workspaces: [] })).toBe('nothing')
    expect(rolesWords({ rights: ['run', 'models'], workspaces: ['garden', 'attic'] })).toBe('ask models, run steps in attic, garden')
    expect(rolesWords({ rights: ['flows'], workspaces: ['*'] })).toBe('see and send flows in all workspaces')
  })
})

describe('words', () => {
  it('take a code however it was typed, and nothing else', () => {
    expect(['3-482-913', ' 3 482 913', '3482913', '12-482-913'].map(codeOf)).toEqual(['3-482-913', '3-482-913', '3-482-913', '12-482-913'])
    expect(['', '482-913', 'three', '3-482-91'].map(codeOf)).toEqual(['', '', '', ''])
  })

  it('say what a node may ask for and who has it, but not of engines that are not paired', () => {
    const laptop = peer('laptop', { offers: offers({ models: [{ name: 'qwen' }], devices: ['/gpio', 'door/camera'] }) })
    expect(offered([pi, laptop, peer('attic', { state: 'found', offers: offers({ models: [{ name: 'secret' }] }) })])).toEqual([
      { need: 'device:door/camera', who: 'laptop' },
      { need: 'device:gpio', who: 'laptop' },
      { need: 'engine:laptop', who: 'laptop' },
      { need: 'engine:pi', who: 'pi' },
      { need: 'model:qwen', who: 'laptop' },
    ])
    expect(listOf('any, model:qwen,, any')).toEqual(['any', 'model:qwen'])
    expect(listOf(null)).toEqual([])
  })

  it('cut fingerprints and commands into parts', () => {
    expect(groups('abcdef012345')).toBe('abcd ef01 2345')
    expect(parts('stop it, and run `flowork x` there')[1]).toBe('flowork x')
  })
})
