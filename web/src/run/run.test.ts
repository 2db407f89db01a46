import { describe, expect, it } from 'vitest'
import type { BulkResult, ChildView, RecordView, RunStory } from '@/api/runs'
import type { StepView } from '@/api/steps'
import { blobsIn, filledIn, isImage, isJson } from './blobs'
import { inParts } from './bulk'
import { broodsOf, itemsOf } from './family'
import { chartOf, roundStep } from './gantt'
import { diffLines, jsonDiff, same } from './jsondiff'
import { Timeline } from './timeline'
import { offset, said } from './words'

const T0 = 1_800_000_000

function step(node: string, state: StepView['state'], more: Partial<StepView> = {}): StepView {
  return { node, type: 'transform', name: '', state, attempts: 1, started: null, took: null, port: state === 'done' ? 'out' : '', ...more }
}

function record(kind: string, node: string, at: number, took: number, more: Partial<RecordView> = {}): RecordView {
  return { kind, node, attempt: 1, at: T0 + at, took, port: kind === 'done' ? 'out' : '', ...more }
}

function story(steps: StepView[], records: RecordView[], finished: number | null): RunStory {
  return {
    id: '0SA0401RG0000', flow: 'f', flow_name: 'F', workspace: 'default', version: 1, place: '', state: finished === null ? 'running' : 'succeeded',
    trigger: 'hand', accepted: T0, finished: finished === null ? null : T0 + finished, took: finished, error: null, parent: null,
    origin: null, letter: 'none', event: {}, item: null, steps, records,
  }
}

const edge = (from: string, to: string): { from: string; to: string } => ({ from, to })

describe('a timeline', () => {
  const forked = new Timeline(
    story(
      [step('a', 'done', { fired: [0] }), step('hot', 'done'), step('cold', 'skipped'), step('after', 'skipped')],
      [record('done', 'a', 0, 1), record('done', 'hot', 1.5, 0.5)],
      2,
    ),
    [edge('a', 'hot'), edge('a', 'cold'), edge('cold', 'after')],
    T0 + 9,
  )

  it('stops at every beginning and every end', () => {
    expect(forked.moments.map(({ at, node, phase }) => [at, node, phase])).toEqual([
      [0, '', 'accepted'], [0, 'a', 'running'], [1, 'a', 'done'], [1.5, 'hot', 'running'], [2, 'hot', 'done'], [2, '', 'ended'],
    ])
  })

  it('knows what every node and edge was doing', () => {
    const phases = (index: number): Record<string, string> => Object.fromEntries(forked.at(index).nodes)
    expect(phases(0)).toEqual({ a: 'pending', hot: 'pending', cold: 'pending', after: 'pending' })
    expect(phases(1)).toMatchObject({ a: 'running', cold: 'pending' })
    expect(forked.at(1).edges).toEqual(['idle', 'idle', 'idle'])
    // As soon as the fork is settled it is known of the whole dead branch.
    expect(phases(2)).toEqual({ a: 'done', hot: 'pending', cold: 'skipped', after: 'skipped' })
    expect(forked.at(2).edges).toEqual(['fired', 'dead', 'dead'])
    expect(phases(5)).toEqual({ a: 'done', hot: 'done', cold: 'skipped', after: 'skipped' })
  })

  it('knows at once of a long dead branch', () => {
    const many = Array.from({ length: 3000 }, (_, index) => `n${index}`)
    const dead = new Timeline(
      story([step('a', 'done', { fired: [] }), ...many.map((node) => step(node, 'skipped'))], [record('done', 'a', 0, 1)], 1),
      [edge('a', 'n0'), ...many.slice(1).flatMap((node, index) => [edge(many[index]!, node), edge('a', node)])],
      T0,
    )
    expect(dead.at(1).nodes.get('n2999')).toBe('pending')
    expect(dead.at(2).nodes.get('n2999')).toBe('skipped')
  })

  it('finds the moment of a time, also the last of several at once', () => {
    expect([0, 0.5, 1, 1.7, 2, 99].map((time) => forked.momentAt(time))).toEqual([1, 1, 2, 3, 5, 5])
  })

  it('tells attempts, waits and what is cut off', () => {
    const line = new Timeline(
      story(
        [step('call', 'failed', { attempts: 2 }), step('ask', 'stopped'), step('pay', 'stopped')],
        [
          record('retry', 'call', 0, 0.2, { extra: { again: T0 + 1 } }),
          record('parked', 'ask', 0.1, 0.1),
          record('intent', 'pay', 0.5, 0),
          record('failed', 'call', 1, 0.5, { attempt: 2 }),
        ],
        1.5,
      ),
      [],
      T0,
    )
    const spans = (node: string): unknown[] => line.byNode.get(node)!.spans.map(({ phase, from, to, attempt }) => [phase, from, to, attempt])
    expect(spans('call')).toEqual([['running', 0, 0.2, 1], ['retrying', 0.2, 1, 1], ['running', 1, 1.5, 2]])
    expect(spans('ask')).toEqual([['running', 0.1, 0.2, 1], ['waiting', 0.2, 1.5, 1]])
    expect(spans('pay')).toEqual([['running', 0.5, 1.5, 1]])
    expect(line.byNode.get('call')!.end).toEqual({ at: 1.5, phase: 'failed' })
    expect(line.at(line.momentAt(0.6)).nodes.get('call')).toBe('retrying')
    expect(line.at(line.moments.length - 1).nodes.get('ask')).toBe('stopped')
  })

  it('takes an intent and the end of the same attempt as one stretch', () => {
    const line = new Timeline(
      story([step('pay', 'done')], [record('intent', 'pay', 0.1, 0), record('done', 'pay', 0.11, 0.4)], 0.6), [], T0)
    expect(line.byNode.get('pay')!.spans).toEqual([{ phase: 'running', from: 0.1, to: 0.51, attempt: 1 }])
  })

  it('lets a step be woken more than once', () => {
    const line = new Timeline(
      story([step('w', 'done')], [
        record('parked', 'w', 0, 0.1), record('woken', 'w', 5, 0), record('parked', 'w', 5, 0.1), record('woken', 'w', 9, 0), record('done', 'w', 9, 0.1),
      ], 9.1), [], T0)
    expect(line.byNode.get('w')!.spans.map((span) => span.phase)).toEqual(['running', 'waiting', 'running', 'waiting', 'running'])
  })

  it('goes on while a run is under way', () => {
    const line = new Timeline(
      story([step('a', 'done', { fired: [0] }), step('b', 'running'), step('c', 'pending')], [record('done', 'a', 0, 1)], null),
      [edge('a', 'b'), edge('b', 'c')],
      T0 + 4,
    )
    expect(line.over).toBe(false)
    expect(line.length).toBe(4)
    expect(line.byNode.get('b')!.spans).toEqual([{ phase: 'running', from: 1, to: null, attempt: 1 }])
    expect(line.moments.at(-1)).toMatchObject({ node: 'b', phase: 'running' })
  })

  it('keeps what a replay took over', () => {
    const line = new Timeline(
      story([step('a', 'kept', { fired: [0] }), step('b', 'done')], [record('seeded', 'a', 0, 0), record('done', 'b', 0.1, 0.1)], 0.2),
      [edge('a', 'b')],
      T0,
    )
    expect(line.moments.map((one) => one.node)).toEqual(['', 'b', 'b', ''])
    expect(line.at(0).nodes.get('a')).toBe('kept')
    expect(line.at(0).edges).toEqual(['fired'])
  })

  it('shows a step that left by its error port as caught', () => {
    const line = new Timeline(story([step('a', 'done', { port: 'error' })], [record('done', 'a', 0, 1, { port: 'error' })], 1), [], T0)
    expect(line.at(line.moments.length - 1).nodes.get('a')).toBe('caught')
    expect(line.at(line.momentAt(0.5)).nodes.get('a')).toBe('running')
  })
})

describe('a chart', () => {
  const waited = new Timeline(
    story(
      [step('a', 'done'), step('ask', 'done'), step('b', 'done')],
      [record('done', 'a', 0, 2), record('parked', 'ask', 2, 0), record('woken', 'ask', 7202, 0), record('done', 'ask', 7202, 0), record('done', 'b', 7202, 2)],
      7204,
    ),
    [],
    T0,
  )

  it('folds a long wait and keeps the rest in proportion', () => {
    const { rows, folds, scale } = chartOf(waited)
    expect(rows.map((row) => row.node)).toEqual(['a', 'ask', 'b'])
    expect(folds).toHaveLength(1)
    expect(folds[0]!.seconds).toBeCloseTo(7200)
    expect(rows[0]!.bars[0]!.width).toBeCloseTo(0.44)
    expect(rows[2]!.bars[0]!.width).toBeCloseTo(0.44)
    expect(scale.at(7204)).toBeCloseTo(1)
    for (const time of [0, 1, 2, 3600, 7203, 7204]) expect(scale.seconds(scale.at(time))).toBeCloseTo(time, 5)
  })

  it('is true to time without folding', () => {
    const { folds, scale } = chartOf(waited, false)
    expect(folds).toEqual([])
    expect(scale.at(3602)).toBeCloseTo(0.5)
  })

  it('writes round moments that do not run into one another', () => {
    const ticks = chartOf(waited, false).scale.ticks(0.1)
    expect(ticks[0]).toBe(0)
    expect(ticks.length).toBeLessThanOrEqual(11)
    expect(ticks.every((time) => time % 900 === 0)).toBe(true)
    expect([0.0013, 0.07, 1.2, 40, 4000].map(roundStep)).toEqual([0.002, 0.1, 2, 60, 7200])
  })

  it('copes with a run that took no time', () => {
    const { scale, rows } = chartOf(new Timeline(story([], [], 0), [], T0))
    expect(rows).toEqual([])
    expect(scale.at(0)).toBe(0)
    expect(scale.ticks(0.2).length).toBeGreaterThan(0)
  })
})

describe('the difference of two values', () => {
  it('is nothing for the same, whatever the order of names', () => {
    expect(same({ a: 1, b: [1, { c: null }] }, { b: [1, { c: null }], a: 1 })).toBe(true)
    expect(jsonDiff({ a: 1, b: 2 }, { b: 2, a: 1 }).op).toBe('same')
    expect(same({ a: undefined }, { b: undefined })).toBe(false)
  })

  it('tells what came, what went and what changed', () => {
    const diff = jsonDiff({ t: 21, unit: 'C', old: 1 }, { t: 22, unit: 'C', fresh: true })
    expect(diff.children.map(({ key, op }) => [key, op])).toEqual([['t', 'changed'], ['unit', 'same'], ['old', 'removed'], ['fresh', 'added']])
  })

  it('aligns lists by what is the same', () => {
    const diff = jsonDiff([1, 2, 3, 4], [0, 1, 3, 4, 5])
    expect(diff.children.map(({ op, left, right }) => [op, left, right])).toEqual([
      ['added', undefined, 0], ['same', 1, 1], ['removed', 2, undefined], ['same', 3, 3], ['same', 4, 4], ['added', undefined, 5],
    ])
    const nested = jsonDiff([{ id: 1, t: 1 }], [{ id: 1, t: 2 }])
    expect(nested.children[0]).toMatchObject({ op: 'changed', kind: 'object' })
  })

  it('reads as lines, with what is the same left out', () => {
    const left = { a: 1, b: 2, c: 3, d: 4, e: 5, f: { g: 1 } }
    const lines = diffLines(left, { ...left, f: { g: 2 } })
    expect(lines.map(({ op, depth, text }) => `${op} ${depth} ${text}`)).toEqual([
      'gap 0 5 lines are the same', 'same 1 "e": 5,', 'same 1 "f": {', 'removed 2 "g": 1', 'added 2 "g": 2', 'same 1 }', 'same 0 }',
    ])
    expect(diffLines(1, undefined).map((line) => line.text)).toEqual(['1', 'nothing'])
    expect(diffLines([1], [1])).toEqual([{ op: 'gap', depth: 0, text: '3 lines are the same' }])
  })

  it('stays quick with long lists', () => {
    const long = Array.from({ length: 3000 }, (_, index) => ({ index }))
    const changed = long.with(1500, { index: -1 })
    expect(diffLines(long, changed).filter((line) => line.op !== 'same' && line.op !== 'gap')).toHaveLength(2)
  })
})

describe('children', () => {
  const child = (id: string, node: string, index: number, state: ChildView['state'], attempt = 1): ChildView => ({
    ...story([], [], 1), id, node, index, attempt, state, accepted: T0 + Number(id),
  })

  it('are put together by step and item, the newest attempt first', () => {
    const broods = broodsOf([
      child('5', 'later', 0, 'running'), child('4', 'each', 1, 'succeeded', 2), child('2', 'each', 1, 'failed', 1), child('1', 'each', 0, 'succeeded'),
    ])
    expect(broods.map((brood) => brood.node)).toEqual(['each', 'later'])
    expect(broods[0]!.items.map(({ index, run, before }) => [index, run.id, before.map((one) => one.id)])).toEqual([[0, '1', []], [1, '4', ['2']]])
    expect(broods[0]!.states).toEqual({ succeeded: 2 })
    expect([...itemsOf([record('spawned', 'each', 0, 0, { value: [1, 2, 3] }), record('done', 'x', 0, 0)])]).toEqual([['each', 3]])
  })
})

describe('large values', () => {
  const blob = { $blob: 'ab', size: 5, type: 'application/x-flowork-value' }

  it('are found wherever they are, each once, and put in their place', () => {
    const value = { rows: [blob, { again: blob }], picture: { $blob: 'cd', type: 'image/png' } }
    expect(blobsIn(value).map((one) => one.$blob)).toEqual(['ab', 'cd'])
    expect(filledIn(value, new Map([['ab', 7]]))).toEqual({ rows: [7, { again: 7 }], picture: { $blob: 'cd', type: 'image/png' } })
    expect([isJson(blob), isImage(value.picture)]).toEqual([true, true])
  })
})

describe('words', () => {
  it('say when it was as precisely as it must be', () => {
    expect([offset(0, 1), offset(0.00015, 0.00005), offset(0.25, 0.1), offset(23.99, 0.002), offset(175, 1), offset(7262.5, 0.1)]).toEqual(
      ['+0 s', '+0.15 ms', '+250 ms', '+23.990 s', '+2:55', '+2:01:02.5'],
    )
  })

  it('say what happened', () => {
    expect(said({ at: 0, node: 'a', phase: 'running', attempt: 3 }, () => 'Call it')).toBe('Call it begins, attempt 3')
    expect(said({ at: 0, node: '', phase: 'ended', attempt: 0 }, (node) => node)).toBe('The run is over')
  })
})

describe('doing one thing with many', () => {
  const all = Array.from({ length: 60 }, (_, index) => `r${index}`)

  it('goes part by part, tells how far it is, and stops when it is told to', async () => {
    const told: number[] = []
    const work = (part: readonly string[]): Promise<BulkResult> => Promise.resolve({ done: [...part.slice(1)], made: [], failed: [{ run: part[0]!, id: 'conflict', message: 'no' }] })
    const result = await inParts(all, work, (now) => told.push(now.done.length + now.failed.length), () => false)
    expect([told, result.done.length, result.failed.length, result.stopped]).toEqual([[25, 50, 60], 57, 3, false])
    const half = await inParts(all, work, () => undefined, () => told.length > 0)
    expect([half.done, half.stopped]).toEqual([[], true])
  })
})
