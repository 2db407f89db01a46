/** The logic behind the pages for who looks after a box. */

import { createApp, h } from 'vue'
import { describe, expect, it } from 'vitest'
import { ApiError } from '@/api/client'
import type { Setting } from '@/api/settings'
import type { TriggerView } from '@/api/triggers'
import { actorName } from '@/lib/format'
import { told } from './entries'
import { problemsOf as inputProblems } from './inputs'
import { invitation } from './invitation'
import MarkdownText, { anchorOf } from './MarkdownText'
import { changesOf, groupsOf, problemsOf, worded } from './settings'
import { freeName, simulatedBoard } from './simulated'
import { inOrder, stateOf } from './triggerState'
import { asKind, kindOf, nameFault, oneLine, textOf, valueOf } from './typed'

describe('values of variables', () => {
  it('come back as they were typed', () => {
    for (const value of ['text', '', 21.5, true, false, null, [1, { a: 'b' }], { limit: 3 }]) {
      expect(valueOf(kindOf(value), textOf(value))).toEqual({ value, fault: '' })
    }
  })

  it('are refused with a reason', () => {
    expect(valueOf('number', 'warm').fault).toContain('no number')
    expect(valueOf('number', ' ').fault).toContain('no number')
    expect(valueOf('json', '{').fault).toContain('no JSON')
    expect(nameFault('3rd')).not.toBe('')
    expect(nameFault('third')).toBe('')
  })

  it('keep their content as another kind where that can be', () => {
    expect(asKind('number', '7')).toBe('7')
    expect(asKind('number', 'seven')).toBe('0')
    expect(valueOf('json', asKind('json', 'a "b"')).value).toBe('a "b"')
    expect(asKind('boolean', 'yes')).toBe('false')
  })

  it('fit into a line', () => {
    expect(oneLine('a\n  b')).toBe('a b')
    expect(oneLine('x'.repeat(300), 10)).toBe(`${'x'.repeat(9)}…`)
  })
})

describe('settings', () => {
  const settings: Setting[] = [
    { name: 'keep_days', value: 12, default: 30, source: 'database' },
    { name: 'clock', value: 'wait', default: 'wait', source: 'default' },
  ]

  it('are changed only where something differs', () => {
    expect(changesOf(settings, {})).toEqual({ set: {}, reset: [] })
    expect(changesOf(settings, { keep_days: 12, clock: undefined })).toEqual({ set: {}, reset: [] })
    expect(changesOf(settings, { keep_days: undefined, clock: 'trust' })).toEqual({ set: { clock: 'trust' }, reset: ['keep_days'] })
    // Setting the default by hand is more than leaving it: it stays when the default changes.
    expect(changesOf(settings, { clock: 'wait' }).set).toEqual({ clock: 'wait' })
  })

  it('stand in the groups that their schema names', () => {
    const groups = groupsOf(settings, { keep_days: { 'x-flowork-group': 'History' } })
    expect(groups.map((group) => [group.name, group.settings.length])).toEqual([['History', 1], ['Others', 1]])
  })

  it('show a refusal at the setting that it names', () => {
    const error = new ApiError({ type: '#config', title: 'No', status: 422, detail: 'keep_days: expected a number' })
    expect(problemsOf(error)).toEqual([{ path: 'keep_days', message: 'expected a number' }])
    expect(inputProblems('input.bed: is required')).toEqual([{ path: 'bed', message: 'is required' }])
    expect(inputProblems('busy')).toEqual([])
  })

  it('are said with their unit', () => {
    expect(worded(2e9, 'bytes')).toBe('2.0 GB')
    expect(worded(30, 'days')).toBe('30 days')
    expect(worded([], '')).toBe('none')
  })
})

describe('triggers', () => {
  const trigger = (id: string, more: Partial<TriggerView>): TriggerView => ({
    flow: 'f', workspace: 'default', id, type: 'manual', name: '', version: 1, enabled: true, starts_runs: true, ok: true, status: '', next: [], ...more,
  })

  it('come with what needs somebody first, then what fires soonest', () => {
    const all = [trigger('off', { enabled: false, ok: false }), trigger('good', {}), trigger('soon', { next: [5] }), trigger('bad', { ok: false }), trigger('who', { ok: null })]
    expect(inOrder(all).map((one) => one.id)).toEqual(['bad', 'who', 'soon', 'good', 'off'])
    expect(all.map(stateOf)).toEqual(['off', 'good', 'good', 'bad', 'unknown'])
  })
})

describe('the audit log', () => {
  const names = new Map([['0x' + 'a'.repeat(40), 'Ada']])

  it('names people, and what changed', () => {
    expect(actorName('user:0x' + 'a'.repeat(40), names)).toBe('Ada')
    expect(actorName('local:pi', names)).toBe('pi, at the box')
    expect(actorName('token:k3', names)).toBe('token k3')
    expect(told({ role: 'admin', name: '', values: { keep_days: 3 }, scopes: ['a', 'b'] })).toBe('role: admin · values: keep_days = 3 · scopes: a, b')
  })
})

describe('an invitation', () => {
  it('says where, as what, and with which key', () => {
    const text = invitation('http://box.local:5000', 'admin', '0xabc', 'Ben')
    expect(text).toContain('Hello Ben,')
    expect(text).toContain('as an admin')
    expect(text).toContain('http://box.local:5000')
    expect(text).toContain('0xabc')
  })
})

describe('simulated boards', () => {
  it('have names of their own, and flows that use them', () => {
    expect(freeName([])).toBe('board')
    expect(freeName(['board', 'board2'])).toBe('board3')
    expect(JSON.stringify(simulatedBoard('attic')).match(/"name":"attic"/g)).toHaveLength(3)
  })
})

describe('markdown', () => {
  function shown(text: string): string {
    const place = document.createElement('div')
    const links = { link: (href: string) => (href.startsWith('http') ? { href } : {}), picture: () => '' }
    createApp({ render: () => h(MarkdownText, { text, links }) }).mount(place)
    return place.innerHTML.replace(/<!--.*?-->/g, '')
  }

  it('becomes elements', () => {
    const html = shown('# One `two`\n\nA *b* **c** `d` [e](http://f).\n\n- g\n- h\n\n```sh\ni\nj\n```\n\n| k | l |\n|---|---|\n| m |  |\n')
    expect(html).toContain('<h1 id="one-two" tabindex="-1">One <code>two</code></h1>')
    expect(html).toContain('<em>b</em> <strong>c</strong> <code>d</code> <a href="http://f"')
    expect(html).toContain('<li><p>g</p></li>')
    expect(html).toContain('i\nj')
    expect(html).toMatch(/<th>k<\/th><th>l<\/th>.*<td>m<\/td><td><\/td>/s)
  })

  it('brings no HTML in', () => {
    expect(shown('a <img src=x onerror=alert(1)> b\n\n<script>alert(2)</script>\n')).not.toMatch(/<img|<script/)
    expect(anchorOf('GET /a, or not?')).toBe('get-a-or-not')
  })
})
