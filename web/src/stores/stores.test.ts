import { createPinia, setActivePinia } from 'pinia'
import { effectScope } from 'vue'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { Page } from '@/api/client'
import type { LiveEvent, LiveListener } from '@/api/live'
import type { RunView } from '@/api/runs'
import { useRuns } from '@/run/useRuns'
import { useActivity } from './activity'
import { useAttention } from './attention'
import { useConfirm } from './confirm'
import { useDevices } from './devices'
import { useFlows } from './flows'
import { useLive } from './live'
import { useModels } from './models'
import { useSession } from './session'
import { useToasts } from './toasts'

/** What the engine answers, by path. */
let engine: Record<string, unknown>
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

const page = (items: unknown[]): unknown => ({ items, next: '' })
const say = (...events: unknown[]): void => listener.events(events as LiveEvent[])
const run = (id: string, more: object = {}): object => ({
  type: 'run', id: `e-${id}`, run: id, flow: 'f', version: 1, place: '', trigger: 't', state: 'running', accepted: Number(id.slice(1)),
  finished: null, parent: null, origin: null, error: null, letter: 'none', steps: [], ...more,
})
const flow = (id: string, more: object = {}): object => ({
  id, name: id, workspace: 'default', folder: '', tags: [], newest: 1, live: 1, enabled: true, created: 0, updated: 0, recent: [], ...more,
})

beforeEach(() => {
  setActivePinia(createPinia())
  engine = {}
  vi.stubGlobal('fetch', (url: string) => {
    const path = url.replace('/api/v1', '').split('?')[0]!
    const found = engine[path]
    const status = found === undefined ? 401 : 200
    const body = found ?? { type: '#unauthorized', title: 'Unauthorized', status }
    return Promise.resolve(new Response(JSON.stringify(body), { status, headers: { 'Content-Type': 'application/json' } }))
  })
})
afterEach(() => vi.unstubAllGlobals())

async function signedIn(permissions: Record<string, string[]> = { '*': ['flows:read', 'runs:read'] }): Promise<ReturnType<typeof useSession>> {
  engine['/session'] = { signed_in: true, kind: 'user', id: '0x1', name: 'Ada', roles: { '*': 'owner' }, scopes: [], permissions, engine: { id: 'e', version: '1' } }
  engine['/openapi.json'] = { info: { version: '1' }, paths: { '/api/v1/flows': {} } }
  const session = useSession()
  await session.load()
  return session
}

describe('the session', () => {
  it('knows what one may do, and what the engine can do', async () => {
    const session = await signedIn({ garden: ['flows:read'], house: ['flows:read', 'flows:write'] })
    expect(session.may('flows:write')).toBe(true)
    expect(session.may('flows:write', 'garden')).toBe(false)
    await vi.waitFor(() => expect(session.has('/flows')).toBe(true))
    expect(session.has('/devices')).toBe(false)
    expect(session.workspace).toBe('garden')
  })

  it('ends when the engine does not know us any more', async () => {
    const session = await signedIn()
    await useFlows().load()
    expect(session.signedIn).toBe(false)
    expect(session.ended).toBe(true)
  })
})

describe('flows', () => {
  it('show runs in their strips as they move, once each, newest first', async () => {
    await signedIn()
    engine['/flows'] = page([flow('f', { recent: [{ id: 'r1', state: 'succeeded', accepted: 1 }] }), flow('g')])
    const flows = useFlows()
    await flows.load()
    say(run('r2'), run('r2', { state: 'succeeded' }), run('r3', { parent: 'r2' }), run('r4', { flow: 'unknown' }))
    expect(flows.byId.get('f')!.recent).toEqual([
      { id: 'r2', state: 'succeeded', accepted: 2 },
      { id: 'r1', state: 'succeeded', accepted: 1 },
    ])
    expect(flows.byId.get('g')!.recent).toEqual([])
    say(...Array.from({ length: 20 }, (_, n) => run(`r${n + 10}`)))
    expect(flows.byId.get('f')!.recent).toHaveLength(12)
  })

  it('are loaded anew when something was missed', async () => {
    await signedIn()
    engine['/flows'] = page([flow('f')])
    const flows = useFlows()
    await flows.load()
    engine['/flows'] = page([flow('f'), flow('h')])
    say({ type: 'reset', id: 'x-0' })
    await vi.waitFor(() => expect(flows.items).toHaveLength(2))
  })
})

describe('activity', () => {
  it('counts each end once, however often it is told', async () => {
    await signedIn()
    const now = Math.floor(Date.now() / 1000)
    engine['/runs'] = page([{ ...run('r1'), id: 'r1', finished: now, accepted: now }])
    const activity = useActivity()
    await activity.load()
    const ended = run('r2', { state: 'failed', accepted: now, finished: now })
    say(ended, ended, run('r1', { state: 'succeeded', accepted: now, finished: now }))
    expect(activity.series(now, 'ended').at(-1)).toBe(2)
    expect(activity.series(now, 'failed').at(-1)).toBe(1)
    expect(activity.newest).toHaveLength(2)
  })
})

/** The engine answers, and its answers come when they are let through. */
function slowly(): () => void {
  let open!: () => void
  const gate = new Promise<void>((resolve) => (open = resolve))
  const quick = globalThis.fetch
  vi.stubGlobal('fetch', async (url: string) => {
    const answer = await quick(url)
    await gate
    return answer
  })
  return open
}

describe('what happens while the first answer is on its way', () => {
  it('is in the newest runs, in the strips, in what devices say and in what is fetched', async () => {
    await signedIn()
    engine['/runs'] = page([])
    engine['/flows'] = page([flow('f')])
    engine['/devices'] = page([{ id: 'd', agent: '', driver: 'sim', entity: 'd', name: 'd', kind: 'binary', unit: '', value: false, last: '', time: 1, online: true }])
    engine['/agents'] = page([])
    engine['/models/pulls'] = page([{ id: 'p', state: 'running', done: 1, total: 9 }])
    const release = slowly()
    const [activity, flows, devices, models] = [useActivity(), useFlows(), useDevices(), useModels()]
    devices.watch()
    const asked = [activity.load(), flows.load(), models.pulls.load()]
    await new Promise((resolve) => setTimeout(resolve))
    const now = Math.floor(Date.now() / 1000)
    say(
      run('r2', { state: 'succeeded', accepted: now, finished: now }),
      { type: 'devices', id: 'e-3', agent: '', values: [{ device: 'd', entity: 'd', driver: 'sim', value: true, kind: 'state', time: 2 }] },
      { type: 'models', pull: { id: 'p', state: 'failed', done: 2, total: 9 } },
    )
    release()
    await Promise.all(asked)
    expect(activity.newest.map((one) => [one.id, one.state])).toEqual([['r2', 'succeeded']])
    expect(activity.series(now, 'ended').at(-1)).toBe(1)
    expect(flows.byId.get('f')!.recent!.map((one) => one.id)).toEqual(['r2'])
    await vi.waitFor(() => expect(devices.items.map((one) => one.value)).toEqual([true]))
    expect(models.pulls.value!.map((one) => one.state)).toEqual(['failed'])
  })

  it('is in the list of runs', async () => {
    await signedIn()
    let answer!: (page: Page<RunView>) => void
    const list = effectScope().run(() => useRuns(() => new Promise((resolve) => (answer = resolve)), () => true))!
    const loading = list.load()
    say(run('r2'))
    answer({ items: [run('r1')].map((one) => ({ ...one, id: 'r1' }) as unknown as RunView), next: '' })
    await loading
    expect(list.rows.value.map((row) => row.id)).toEqual(['r2', 'r1'])
    const anew = list.load()
    say(run('r3'))
    answer({ items: [], next: '' })
    await anew
    expect(list.rows.value.map((row) => row.id)).toEqual(['r3'])
  })

  it('is asked for once more where something was missed', async () => {
    await signedIn()
    engine['/runs'] = page([])
    const release = slowly()
    const activity = useActivity()
    void activity.load()
    await new Promise((resolve) => setTimeout(resolve))
    engine['/runs'] = page([{ ...run('r1'), id: 'r1' }])
    say({ type: 'reset', id: 'x-0' })
    release()
    await vi.waitFor(() => expect(activity.newest.map((one) => one.id)).toEqual(['r1']))
  })
})

describe('live', () => {
  it('has what is loaded wait until everything is heard, so that nothing falls in between', async () => {
    const live = useLive()
    const missed = vi.fn()
    effectScope().run(() => live.watchReset(missed))
    let ready = false
    const started = live.start().then(() => (ready = true))
    await Promise.resolve()
    expect(ready).toBe(false)
    say({ type: 'hello', id: 'e-0' })
    await started
    expect(missed).not.toHaveBeenCalled()
  })

  it('does not have it wait for long, and loads it anew then', async () => {
    vi.useFakeTimers()
    const live = useLive()
    const missed = vi.fn()
    effectScope().run(() => live.watchReset(missed))
    const started = live.start()
    vi.advanceTimersByTime(1000)
    await started
    expect(missed).not.toHaveBeenCalled()
    say({ type: 'hello', id: 'e-0' })
    expect(missed).toHaveBeenCalledTimes(1)
    vi.useRealTimers()
  })

  it('says since when it is cut, and whether the kernel is there', () => {
    const live = useLive()
    listener.state('live')
    say({ type: 'kernel', up: false })
    expect(live.kernelUp).toBe(false)
    listener.state('cut')
    const since = live.since
    listener.state('cut')
    expect(since).not.toBeNull()
    expect(live.since).toBe(since)
    listener.state('live')
    expect(live.since).toBeNull()
  })
})

describe('what needs a person', () => {
  it('says what is wrong once, and leaves to triggers what is theirs', async () => {
    await signedIn()
    const text = 'the broker: nothing listens on mqtt://a:1883'
    const findings = [{ id: 'mqtt', level: 'warning', text, mend: '' }, { id: 'mqtt', level: 'warning', text, mend: '' }, { id: 'disk', level: 'warning', text: 'full', mend: '' }]
    engine['/health'] = { status: 'warning', findings }
    engine['/triggers'] = page([])
    const attention = useAttention()
    await Promise.all([attention.health.load(), attention.triggers.load()])
    expect(attention.otherFindings.map((one) => one.text)).toEqual([text, 'full'])
    engine['/triggers'] = page([{ id: 't', flow: 'f', enabled: true, ok: false, status: 'nothing listens on mqtt://a:1883' }])
    await attention.triggers.load()
    expect(attention.otherFindings.map((one) => one.text)).toEqual(['full'])
    expect(attention.counts).toMatchObject({ triggers: 1, health: 2 })
  })
})

describe('words', () => {
  it('go by themselves, except problems', () => {
    vi.useFakeTimers()
    const toasts = useToasts()
    toasts.done('saved')
    toasts.problem('not saved', new Error('why'))
    vi.advanceTimersByTime(20_000)
    expect(toasts.items.map((toast) => [toast.title, toast.detail])).toEqual([['not saved', 'why']])
    vi.useRealTimers()
  })

  it('a second question answers the first with no', async () => {
    const confirm = useConfirm()
    const first = confirm.ask({ title: 'a', text: '', yes: 'A' })
    const second = confirm.ask({ title: 'b', text: '', yes: 'B' })
    confirm.answer(true)
    expect(await Promise.all([first, second])).toEqual([false, true])
  })
})
