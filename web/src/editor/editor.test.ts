import { readdirSync, readFileSync } from 'node:fs'
import { afterEach, describe, expect, it, vi } from 'vitest'
import type { Backend, FlowState, SaveResult } from './backend'
import { readClip } from './clipboard'
import { complete, NOTHING_KNOWN } from './completion'
import { Editor } from './editor'
import { freeId, graphAt, linkFault, removeAndHeal, renameNode, setNode, type FlowDoc } from './flowdoc'
import { History } from './history'
import { linesOf, marksOf, overlaid, type FlowDiff } from './marks'
import { counted, located } from './problems'
import { firstField, startConfig } from './schema'
import { shapesOf, type Kind, type Kinds } from './sceneof'
import { SHORTCUTS, shortcutOf, written } from './shortcuts'

const KIND: Kind = {
  type: 'log', title: 'Log', icon: 'list', summary: '', help: '', category: 'logic', effect: 'pure', ports: ['out', 'error'],
  schema: { $ref: '#/$defs/C', $defs: { C: { type: 'object', properties: { message: { type: 'string' } }, required: ['message'] } } },
}
const KINDS: Kinds = {
  nodes: new Map([['log', KIND], ['for_each', { ...KIND, type: 'for_each', title: 'For each', has_body: true }]]),
  triggers: new Map([['manual', { ...KIND, type: 'manual', title: 'Manual' }]]),
}

const DOC: FlowDoc = {
  name: 'Flow',
  nodes: [
    { id: 'a', type: 'log', config: { message: 'hi' }, position: { x: 0, y: 0 } },
    { id: 'b', type: 'log', config: { message: '{{ steps.a.t }} {{ steps["a"] }} {{ steps.ab }}' }, position: { x: 400, y: 0 } },
    { id: 'loop', type: 'for_each', config: { items: 'payload', body: { nodes: [{ id: 'in', type: 'log' }], edges: [] } }, position: { x: 800, y: 0 } },
  ],
  edges: [{ from: 'a', to: 'b', condition: 'steps.a > 1' }, { from: 'b', to: 'loop' }],
  triggers: [{ id: 't', type: 'manual' }],
}

function state(flow: FlowDoc, newest = 1): FlowState {
  const version = { number: newest, author: 'me', message: '', created: 0, live: false }
  return { id: 'flow', name: flow.name, workspace: 'default', newest, live: null, enabled: true, version, flow }
}

function backend(over: Partial<Backend> = {}): Backend {
  const none = (): never => {
    throw new Error('not asked for here')
  }
  return {
    load: async () => state(DOC),
    check: async () => ({ ok: true, problems: [], nodes: {} }),
    save: none, compare: none, versions: none, version: none, rollback: none, run: none, evaluate: none, tryOut: none, rehearse: none,
    runs: async () => [],
    names: async () => ({ vars: {}, secrets: [] }),
    ...over,
  }
}

const open: Editor[] = []

async function opened(over: Partial<Backend> = {}): Promise<Editor> {
  const editor = new Editor(backend(over))
  open.push(editor)
  await editor.open(KINDS)
  return editor
}

afterEach(() => {
  for (const editor of open.splice(0)) editor.close()
  vi.useRealTimers()
})

describe('history', () => {
  it('undoes, redoes, and forgets the future after a new change', () => {
    const history = new History('a')
    history.commit('b', 'to b')
    history.commit('c', 'to c')
    expect(history.undoLabel).toBe('to c')
    expect(history.undo()).toBe(true)
    expect([history.value, history.undoLabel, history.redoLabel]).toEqual(['b', 'to b', 'to c'])
    history.redo()
    expect(history.value).toBe('c')
    history.undo()
    history.commit('d', 'to d')
    expect(history.redo()).toBe(false)
    history.undo()
    history.undo()
    expect([history.value, history.undo(), history.undoLabel]).toEqual(['a', false, null])
  })

  it('merges what is typed in one go, not what comes later or elsewhere', () => {
    let now = 0
    const history = new History('', () => now)
    for (const text of ['h', 'he', 'hey']) {
      history.commit(text, 'type', 'field')
      now += 300
    }
    now += 5000
    history.commit('hey!', 'type', 'field')
    history.commit('hey!?', 'type', 'other')
    history.undo()
    expect(history.value).toBe('hey!')
    history.undo()
    expect(history.value).toBe('hey')
    history.undo()
    expect(history.value).toBe('')
  })
})

describe('the flow', () => {
  it('leaves what it was made from alone', () => {
    const before = JSON.stringify(DOC)
    removeAndHeal(DOC, [], 'b')
    renameNode(DOC, [], 'a', 'z')
    expect(JSON.stringify(DOC)).toBe(before)
  })

  it('makes ids that the engine takes', () => {
    expect(freeId('log', ['log', 'log_2'])).toBe('log_3')
    expect(freeId('é ä', [])).toMatch(/^[A-Za-z0-9_][A-Za-z0-9_.-]*$/)
  })

  it('refuses circles and repetitions before they are drawn', () => {
    expect(linkFault(DOC, 'loop', 'out', 'a')).toContain('circle')
    expect(linkFault(DOC, 'a', 'out', 'b')).toContain('already')
    expect(linkFault(DOC, 'a', 'error', 'b')).toBe('')
    expect(linkFault(DOC, 'a', 'out', 'a')).not.toBe('')
  })

  it('renames a node everywhere it is named, and nothing else', () => {
    const next = renameNode(DOC, [], 'a', 'first-one')
    expect(next.nodes[1]!.config!.message).toBe("{{ steps['first-one'].t }} {{ steps['first-one'] }} {{ steps.ab }}")
    expect(next.edges![0]).toEqual({ from: 'first-one', to: 'b', condition: "steps['first-one'] > 1" })
  })

  it('closes the gap when a node is taken out of a chain', () => {
    expect(removeAndHeal(DOC, [], 'b').edges).toEqual([{ from: 'a', to: 'loop' }])
  })

  it('leaves out what says nothing', () => {
    expect(setNode(DOC, 'a', { name: '', disabled: false, join: 'all' }).nodes[0]).toEqual(DOC.nodes[0])
  })
})

describe('shapes', () => {
  it('draws triggers with a link to each first node', () => {
    const { nodes, edges } = shapesOf(DOC, [], KINDS)
    expect(nodes.map((node) => node.id)).toEqual(['a', 'b', 'loop', 'trigger:t'])
    expect(edges.at(-1)).toMatchObject({ from: 'trigger:t', to: 'a', index: -1 })
    expect(nodes.every((node) => Number.isFinite(node.x) && Number.isFinite(node.y))).toBe(true)
  })

  it('shows a body by itself', () => {
    expect(shapesOf(DOC, ['loop'], KINDS).nodes.map((node) => node.id)).toEqual(['in'])
  })
})

describe('faults', () => {
  it('are found where they lie, also in bodies', () => {
    const url = located(DOC, { path: 'nodes[2].config.body.nodes[0].config.url', message: '' })
    expect([url.graph, url.shape, url.field]).toEqual([['loop'], 'in', 'config.url'])
    expect(located(DOC, { path: 'triggers[0].config.x', message: '' }).shape).toBe('trigger:t')
    expect(located(DOC, { path: 'edges[1].to', message: '' })).toMatchObject({ edge: 1, field: 'to' })
    expect(located(DOC, { path: 'settings.timeout', message: '' })).toMatchObject({ shape: '', field: 'settings.timeout' })
    expect(counted([url], []).shapes.get('loop')).toBe(1)
    expect(counted([url], ['loop']).shapes.get('in')).toBe(1)
  })
})

describe('clips', () => {
  it('are read from many forms of text, and not from others', () => {
    expect(readClip('{"id": "x", "type": "log"}')?.nodes).toHaveLength(1)
    expect(readClip(JSON.stringify(DOC))?.edges).toHaveLength(2)
    expect(readClip('[{"id": "x", "type": "log"}, 7]')?.nodes).toHaveLength(1)
    for (const text of ['', 'hello', '7', '{}', '{"nodes": "no"}', '[[]]']) expect(readClip(text)).toBeNull()
  })
})

describe('completion', () => {
  const known = { ...NOTHING_KNOWN, payload: { temp: 21, 'a-b': { c: [1] } }, steps: { ask: { body: { ok: true } } }, secrets: ['door'] }
  const texts = (text: string, expression = true): string[] | null => complete(text, expression, known)?.suggestions.map((one) => one.text) ?? null

  it('follows the data of the last run', () => {
    expect(texts('payload.')).toEqual(['temp', 'a-b'])
    expect(texts('1 + steps.ask.bo')).toEqual(['body'])
    expect(texts('steps.ask.body.')).toEqual(['ok'])
    expect(texts('secrets.')).toEqual(['door'])
    expect(texts('payload.temp | rou')).toEqual(['round'])
    expect(texts('pay')).toEqual(['payload'])
  })

  it('keeps quiet in plain text and in quotes', () => {
    expect(texts('Hello pay', false)).toBeNull()
    expect(texts('{{ done }} pay', false)).toBeNull()
    expect(texts('Hello {{ payload.te', false)).toEqual(['temp'])
    expect(texts("'pay")).toBeNull()
  })

  it('says where the replaced part begins', () => {
    expect(complete('Hello {{ payload.te', false, known)?.from).toBe('Hello {{ payload.'.length)
  })
})

describe('schemas', () => {
  it('start a node with what is required and obvious', () => {
    const schema = { type: 'object', properties: { a: { type: 'string' }, how: { enum: ['x', 'y'] }, n: { default: 3 } }, required: ['a', 'how', 'n'] }
    expect(startConfig(schema)).toEqual({ how: 'x', n: 3 })
    expect(firstField(KIND.schema)).toBe('message')
  })
})

describe('the editor', () => {
  it('undoes everything that was done', async () => {
    const editor = await opened()
    const begin = editor.doc.value
    editor.addNode(KIND, { x: 10, y: 500 }, { node: 'loop', port: 'out' })
    editor.setNode('a', { name: 'First' })
    editor.pick(['a', 'b'])
    editor.nudge(20, 0)
    editor.align('top')
    editor.duplicate()
    editor.group()
    editor.removePicked()
    editor.connect({ node: 'a', port: 'error' }, 'b')
    expect(editor.dirty.value).toBe(true)
    while (editor.undoLabel.value !== null) editor.undo()
    expect(editor.doc.value).toBe(begin)
    expect(editor.dirty.value).toBe(false)
    while (editor.redoLabel.value !== null) editor.redo()
    expect(editor.doc.value.nodes.find((node) => node.id === 'a')?.name).toBe('First')
  })

  it('links a new node behind the port it was drawn from', async () => {
    const editor = await opened()
    const id = editor.addNode(KIND, null, { node: 'b', port: 'error' })
    expect(editor.doc.value.edges).toContainEqual({ from: 'b', to: id, port: 'error' })
    expect([...editor.picked.value]).toEqual([id])
  })

  it('puts a node between the ends of an edge, in place of it', async () => {
    const editor = await opened()
    const id = editor.addNode(KIND, null)
    editor.insertInto(0, id)
    expect(editor.doc.value.edges).toEqual([{ from: 'a', to: id, condition: 'steps.a > 1' }, { from: 'b', to: 'loop' }, { from: id, to: 'b' }])
  })

  it('groups nodes, and knows the group by them', async () => {
    const editor = await opened()
    editor.pick(['a', 'b', 'trigger:t'])
    editor.group()
    expect(editor.pickedGroup.value?.nodes).toEqual(['a', 'b'])
    editor.pick(['a'])
    editor.removePicked()
    expect(editor.doc.value.groups?.[0]?.nodes).toEqual(['b'])
    editor.pick(['b'])
    editor.ungroup()
    expect(editor.doc.value.groups).toEqual([])
  })

  it('works in bodies as in the flow itself', async () => {
    const editor = await opened()
    editor.enter('loop')
    editor.addNode(KIND, null, { node: 'in', port: 'out' })
    expect(graphAt(editor.doc.value, ['loop']).edges).toEqual([{ from: 'in', to: 'log' }])
    editor.leave()
    expect([...editor.picked.value]).toEqual(['loop'])
    editor.pick(['loop'])
    editor.removePicked()
    editor.undo()
    expect(graphAt(editor.doc.value, ['loop']).nodes).toHaveLength(2)
  })

  it('pastes between flows with new ids and the edges in between', async () => {
    const editor = await opened()
    editor.pick(['a', 'b'])
    expect(editor.paste(editor.copyText())).toBe(true)
    expect(editor.doc.value.edges).toContainEqual({ from: 'a_2', to: 'b_2', condition: 'steps.a > 1' })
    expect(editor.paste('nothing of use')).toBe(false)
  })

  it('asks the engine once the typing pauses, and shows what it says at its place', async () => {
    vi.useFakeTimers()
    const check = vi.fn(async () => ({ ok: false, problems: [{ path: 'nodes[0].config.message', message: 'is bad' }], nodes: { a: { ports: ['left', 'error'], effect: 'pure' } } }))
    const editor = await opened({ check })
    for (const text of ['h', 'he', 'hel']) editor.setNode('a', { name: text })
    await vi.advanceTimersByTimeAsync(400)
    expect(check).toHaveBeenCalledTimes(1)
    expect(editor.scene.value.byId.get('a')).toMatchObject({ problems: 1, ports: ['left', 'error'] })
    editor.visit(editor.faults.value[0]!)
    expect([editor.panel.value, editor.field.value]).toEqual(['config', 'config.message'])
  })

  it('saves what has faults as a draft, and loses nothing when somebody else was quicker', async () => {
    const newest = { number: 2, author: 'you', message: 'yours', created: 1, live: false }
    const answers: SaveResult[] = [{ collision: { yours: null, newest } }, { saved: state(DOC, 3) }]
    const save = vi.fn(async () => answers.shift()!)
    const editor = await opened({ save, load: async () => state(DOC, 1) })
    editor.setNode('a', { name: 'Mine' })
    expect(await editor.save('try')).toBe(false)
    expect(editor.collision.value?.newest?.number).toBe(2)
    expect(await editor.keepMine('mine on top')).toBe(true)
    expect(save).toHaveBeenLastCalledWith(expect.anything(), 2, expect.objectContaining({ message: 'mine on top' }))
    expect(editor.flow.value?.newest).toBe(3)
  })

  it('can go back behind taking the other version', async () => {
    const editor = await opened()
    editor.setNode('a', { name: 'Mine' })
    const mine = editor.doc.value
    await editor.takeTheirs()
    expect(editor.doc.value).toBe(DOC)
    editor.undo()
    expect(editor.doc.value).toBe(mine)
  })

  it('changes nothing while an older version is looked at', async () => {
    const editor = await opened()
    editor.preview.value = { title: 'Version 1', doc: DOC, marks: { shapes: new Map(), edges: new Map() } }
    editor.pick(['a'])
    editor.removePicked()
    editor.undo()
    expect(editor.doc.value).toBe(DOC)
  })
})

describe('keys', () => {
  const pressed = (key: string, more: Partial<KeyboardEvent> = {}): string | null =>
    shortcutOf({ key, ctrlKey: false, metaKey: false, shiftKey: false, altKey: false, ...more })

  it('mean one thing each', () => {
    const all = SHORTCUTS.flatMap((one) => one.keys)
    expect(new Set(all).size).toBe(all.length)
    for (const one of SHORTCUTS) for (const keys of one.keys) expect(written(keys)).not.toBe('')
  })

  it('are known with and without Shift, on every keyboard', () => {
    expect(pressed('?', { shiftKey: true })).toBe('help')
    expect(pressed('>', { shiftKey: true })).toBe('link')
    expect(pressed('z', { ctrlKey: true })).toBe('undo')
    expect(pressed('Z', { ctrlKey: true, shiftKey: true })).toBe('redo')
    expect(pressed('z', { metaKey: true })).toBe('undo')
    expect(pressed('ArrowRight', { shiftKey: true })).toBe('nudge-right')
    expect(pressed('Enter', { ctrlKey: true, shiftKey: true })).toBe('test')
    expect(pressed('h')).toBeNull()
  })
})

describe('comparisons', () => {
  const diff: FlowDiff = {
    nodes: { added: [{ id: 'new', type: 'log', changes: [] }], removed: [{ id: 'old', type: 'log', changes: [] }], changed: [], moved: ['a'] },
    triggers: { added: [], removed: [], changed: [{ id: 't', type: 'manual', changes: [] }], moved: [] },
    edges_added: [{ from: 'a', to: 'new' }],
    edges_removed: [{ from: 'a', to: 'old', port: 'error' }],
    settings: [{ path: 'mode', op: 'changed', old: 'parallel', new: 'queued' }],
    other: [],
  }

  it('colour both versions in one picture', () => {
    const older: FlowDoc = { name: '', nodes: [{ id: 'a', type: 'log' }, { id: 'old', type: 'log' }] }
    const newer: FlowDoc = { name: '', nodes: [{ id: 'a', type: 'log' }, { id: 'new', type: 'log' }], edges: [{ from: 'a', to: 'new' }], triggers: [{ id: 't', type: 'manual' }] }
    const both = overlaid(newer, older, diff)
    const { nodes, edges } = shapesOf(both, [], KINDS, undefined, marksOf(diff))
    const mark = (id: string): string | undefined => nodes.find((node) => node.id === id)?.diff
    expect([mark('a'), mark('new'), mark('old'), mark('trigger:t')]).toEqual(['moved', 'added', 'removed', 'changed'])
    expect(edges.filter((edge) => edge.index >= 0).map((edge) => edge.diff)).toEqual(['added', 'removed'])
  })

  it('are told in lines', () => {
    const lines = linesOf(diff).map((line) => line.what)
    expect(lines).toContain('Edge a → old by error')
    expect(lines).toContain('Setting mode')
    expect(lines.at(-1)).toBe('1 node stands elsewhere on the canvas')
  })
})

describe('icons', () => {
  it('are bundled for every kind that comes with the engine', () => {
    const folder = `${import.meta.dirname}/../../../appliance/`
    const known = readFileSync(`${import.meta.dirname}/KindIcon.vue`, 'utf8')
    const bundled = new Set([...known.matchAll(/'?([a-z][a-z0-9-]*)'?: [A-Z]/g)].map((match) => match[1]))
    const named = ['nodes', 'triggers'].flatMap((kind) =>
      readdirSync(folder + kind)
        .filter((file) => file.endsWith('.py'))
        .flatMap((file) => [...readFileSync(`${folder}${kind}/${file}`, 'utf8').matchAll(/^ {4}icon = "(.+)"/gm)].map((match) => match[1])),
    )
    expect(named.length).toBeGreaterThan(10)
    expect(named.filter((name) => !bundled.has(name))).toEqual([])
  })
})
