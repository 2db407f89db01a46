import { describe, expect, it } from 'vitest'
import type { LiveRun } from '@/api/live'
import type { RunView } from '@/api/runs'
import { RunFeed } from './feed'
import { addressOf, belongs, EVERYTHING, isPlain, localTime, questionOf, wantedOf } from './filters'

const run = (id: string, more: Partial<RunView> = {}): RunView => ({
  id, flow: 'f', flow_name: 'F', workspace: 'default', version: 1, place: '', state: 'running', trigger: 'hand', accepted: Number(id),
  finished: null, took: null, error: null, parent: null, origin: null, letter: 'none', ...more,
})
const event = (id: string, more: Partial<LiveRun> = {}): LiveRun => ({
  type: 'run', id: `e-${id}`, run: id, flow: 'f', version: 1, state: 'running', accepted: Number(id), finished: null, steps: [],
  place: '', trigger: 'hand', parent: null, origin: null, error: null, letter: 'none', ...more,
})
const ids = (feed: RunFeed): string[] => feed.rows.map((row) => row.id)

describe('a question in the address', () => {
  it('comes back as it was', () => {
    const wanted = {
      ...EVERYTHING, flow: ['a', 'b'], state: ['failed', 'dead'] as const, trigger: 't', text: 'pump 3', letter: 'open' as const,
      children: true, since: 1_800_000_000, until: 1_800_003_601,
    }
    expect(wantedOf(addressOf(wanted))).toEqual(wanted)
    expect(wantedOf(addressOf({ ...EVERYTHING, last: '24h' }))).toEqual({ ...EVERYTHING, last: '24h' })
    expect(isPlain(wantedOf({}))).toBe(true)
  })

  it('passes over what makes no sense', () => {
    expect(wantedOf({ state: ['failed', 'broken'], letter: 'x', last: 'toString', since: 'soon', children: 'yes' })).toEqual({ ...EVERYTHING, state: ['failed'] })
  })

  it('becomes the question that the engine is asked', () => {
    expect(questionOf({ ...EVERYTHING, last: '1h', since: 5 }, '*', 10_000)).toEqual({ workspace: '*', since: 6400 })
    expect(questionOf({ ...EVERYTHING, until: 7, text: 'x', state: ['dead'] }, 'lab', 0)).toEqual({ workspace: 'lab', until: 7, text: 'x', state: ['dead'] })
  })

  it('has times as the browser writes them', () => {
    expect(wantedOf({ since: localTime(1_800_000_001) }).since).toBe(1_800_000_001)
  })

  it('says whether a run that moved belongs there', () => {
    expect(belongs(event('1'), EVERYTHING)).toBe(true)
    expect(belongs(event('1', { parent: '0' }), EVERYTHING)).toBe(false)
    expect(belongs(event('1', { parent: '0' }), { ...EVERYTHING, children: true })).toBe(true)
    expect(belongs(event('1'), { ...EVERYTHING, flow: ['g'] })).toBe(false)
    expect(belongs(event('1'), { ...EVERYTHING, state: ['failed'] })).toBe(false)
    expect(belongs(event('1'), { ...EVERYTHING, until: 1 })).toBe(false)
    expect(belongs(event('1'), { ...EVERYTHING, text: 'x' })).toBe('unknown')
  })
})

describe('the rows of a list', () => {
  it('are brought up to date in their place', () => {
    const feed = new RunFeed(EVERYTHING)
    feed.add([run('3'), run('2')], true)
    expect(feed.take([event('2', { state: 'failed', finished: 5, error: { message: 'no' }, letter: 'open' })], false)).toBe(true)
    expect(feed.rows[1]).toMatchObject({ id: '2', state: 'failed', took: 3, error: { message: 'no' }, letter: 'open', flow_name: 'F' })
    expect(ids(feed)).toEqual(['3', '2'])
  })

  it('take new runs on top when one follows, and hold them back when one reads', () => {
    const feed = new RunFeed(EVERYTHING, (flow) => flow.toUpperCase())
    feed.add([run('3')], true)
    feed.take([event('5'), event('4')], true)
    expect(ids(feed)).toEqual(['5', '4', '3'])
    expect(feed.take([event('6'), event('6', { state: 'succeeded', finished: 7 })], false)).toBe(false)
    expect([ids(feed)[0], feed.held.size]).toEqual(['5', 1])
    feed.release()
    expect(feed.rows[0]).toMatchObject({ id: '6', state: 'succeeded', flow_name: 'F' })
    expect(feed.held.size).toBe(0)
  })

  it('keep nothing twice, whichever way it comes', () => {
    const feed = new RunFeed(EVERYTHING)
    feed.add([run('5'), run('4')], true)
    feed.add([run('4'), run('3')], false)
    feed.take([event('5')], true)
    expect(ids(feed)).toEqual(['5', '4', '3'])
    expect([feed.placeOf('3'), feed.placeOf('9'), feed.placeOf(null)]).toEqual([2, -1, -1])
  })

  it('leave an old run that moves to its own page', () => {
    const feed = new RunFeed(EVERYTHING)
    feed.add([run('5')], true)
    feed.take([event('2')], true)
    expect(ids(feed)).toEqual(['5'])
  })

  it('do not let a page that was long under way undo what came live', () => {
    const feed = new RunFeed(EVERYTHING)
    feed.add([run('5')], true)
    feed.take([event('5', { state: 'succeeded', finished: 6 })], true)
    feed.add([run('5'), run('4')], true)
    expect(feed.rows[0]!.state).toBe('succeeded')
  })

  it('forget a held run that belongs there no longer', () => {
    const feed = new RunFeed({ ...EVERYTHING, state: ['running'] })
    feed.add([run('1')], true)
    feed.take([event('2')], false)
    feed.take([event('2', { state: 'succeeded', finished: 3 })], false)
    expect(feed.held.size).toBe(0)
  })

  it('say that they are stale where only the engine can judge', () => {
    const feed = new RunFeed({ ...EVERYTHING, text: 'pump' })
    feed.take([event('2')], true)
    expect([ids(feed), feed.stale]).toEqual([[], true])
  })

  it('ask to be loaded anew before they grow without end', () => {
    const feed = new RunFeed(EVERYTHING)
    feed.take(Array.from({ length: 2001 }, (_, index) => event(String(index).padStart(5, '0'))), true)
    expect(feed.overgrown).toBe(true)
    feed.add([run('09999')], true)
    expect(feed.overgrown).toBe(false)
  })
})
