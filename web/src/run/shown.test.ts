/** Words of steps as they come, the tools of an answer, what a form takes of an old payload, and who sees a prompt. */

import { describe, expect, it } from 'vitest'
import type { StepView } from '@/api/steps'
import { callsOf } from '@/ask/calls'
import { filledFrom } from '@/flows/starting'
import { sendsWords } from '@/lib/places'
import { heard } from './shown'

const piece = (from: number, text: string, attempt = 1) => ({ type: 'stream', run: 'r', node: 'n', attempt, from, text }) as const

describe('words of a step', () => {
  it('are put together piece by piece', () => {
    const first = heard(undefined, piece(0, 'Open '))
    expect(heard(first, piece(5, 'the windows'))).toEqual({ attempt: 1, missed: 0, text: 'Open the windows' })
  })

  it('begin anew from 0 and with another attempt', () => {
    const first = heard(undefined, piece(0, 'Open '))
    expect(heard(first, piece(0, 'Close')).text).toBe('Close')
    expect(heard(first, piece(5, 'again', 2))).toEqual({ attempt: 2, missed: 5, text: 'again' })
  })

  it('tell of a gap instead of closing it', () => {
    const first = heard(undefined, piece(0, 'Open '))
    expect(heard(first, piece(90, 'the end'))).toEqual({ attempt: 1, missed: 90, text: 'the end' })
  })

  it('are not doubled by what overlaps', () => {
    const first = heard(undefined, piece(0, 'Open the'))
    expect(heard(first, piece(5, 'the windows')).text).toBe('Open the windows')
  })
})

describe('the tools of an answer', () => {
  it('are read from the output of the steps', () => {
    const steps = [
      { output: { text: 'x', calls: [{ tool: 'soil', arguments: { bed: 2 }, ok: true, run: '0SA' }, { tool: 'lamp', ok: false, error: 'no' }] } },
      { output: 'plain' },
      {},
    ] as unknown as StepView[]
    expect(callsOf(steps)).toEqual([
      { tool: 'soil', ok: true, error: '', run: '0SA', told: '{"bed":2}' },
      { tool: 'lamp', ok: false, error: 'no', run: '', told: '' },
    ])
  })
})

describe('an old payload', () => {
  it('fills what the form asks for and fits', () => {
    const schema = { properties: { t: { type: 'number' }, room: { enum: ['a', 'b'] }, name: { type: 'string' } } }
    expect(filledFrom(schema, { t: 3, room: 'c', name: 5, other: 1 })).toEqual({ t: 3 })
    expect(filledFrom(schema, [1])).toEqual({})
  })
})

describe('who sees a prompt', () => {
  it('is said in words', () => {
    expect(sendsWords([])).toBe('')
    expect(sendsWords(['a.example', '?'])).toBe('Sends what it works on to a.example and a place that only the run can tell')
  })
})
