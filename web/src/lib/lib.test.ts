import { describe, expect, it, vi } from 'vitest'
import { ApiError, type Page } from '@/api/client'
import { bytes, duration, errorText, relative } from './format'
import { inputsOf } from './inputs'
import { addressOf, NoKey, readKey, signText } from './keys'
import { useLoaded } from './loaded'
import { usePaged } from './paged'
import { labelOf, resolved, withoutNull, type JsonSchema } from './schema'
import { toneOf } from './states'
import { kindOf } from '@/components/schemaForm'
import { routeOf, blockOf } from '../../vite/pages.ts'

describe('keys', () => {
  // The example of web3.js' documentation (accounts.sign).
  const KEY = '0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318'

  it('have an address', () => {
    expect(addressOf(readKey(KEY))).toBe('0x2c7536E3605D9C16a7a3D7b1898e529396a65c23')
  })

  it('sign as wallets do', () => {
    expect(signText('Some data', readKey(KEY))).toBe(
      '0xb91467e570a6466aa9e9876cbcd013baba02900b8979d43fe208a4a4f339f5fd6007e74cd82e037b800186422fc2da167c747ef045e5d18a5f5d4300f8e1a0291c',
    )
  })

  it('are read from a file, with and without 0x', () => {
    const whole = readKey(JSON.stringify({ flowork_key: 1, private_key: KEY }))
    expect(readKey(`PRIVATE KEY ${KEY}\n`)).toEqual(whole)
    expect(readKey(KEY.slice(2).toUpperCase())).toEqual(whole)
  })

  it.each(['', 'x', '00'.repeat(32), '{}', '[1]'])('refuse %j', (text) => {
    expect(() => readKey(text)).toThrow(NoKey)
  })
})

describe('words', () => {
  it.each([[0.00046, '460 µs'], [0.0046, '4.6 ms'], [0.25, '250 ms'], [2, '2 s'], [59.4, '59 s'], [185, '3 min 5 s'], [7440, '2 h 4 min'], [180_000, '2 d 2 h'], [null, '–']])(
    'duration of %s', (seconds, text) => expect(duration(seconds)).toBe(text),
  )
  it.each([[0, '0 B'], [999, '999 B'], [1500, '1.5 kB'], [78.3e9, '78.3 GB'], [undefined, '–']])('bytes of %s', (n, text) => expect(bytes(n)).toBe(text))
  it.each([[100, 'just now'], [70, '30 s ago'], [400, 'in 5 min'], [100 - 7200, '2 h ago']])('moment %s', (at, text) => expect(relative(at, 100)).toBe(text))
  it('errors', () => {
    expect(errorText({ id: 'x', message: 'no' })).toBe('no')
    expect(errorText(null)).toBe('')
  })
  it('states', () => {
    expect(['done', 'retrying', 'dead', 'what'].map(toneOf)).toEqual(['succeeded', 'warning', 'dead', 'queued'])
  })
})

describe('schemas', () => {
  const root = { $defs: { A: { type: 'object', properties: { x: { type: 'string' } } } } }
  const kind = (schema: JsonSchema): string => kindOf(schema, (one) => resolved(one, root))

  it('follow references and drop null', () => {
    expect(resolved({ $ref: '#/$defs/A', description: 'd' }, root)).toMatchObject({ type: 'object', description: 'd' })
    expect(withoutNull({ anyOf: [{ type: 'string' }, { type: 'null' }], default: null })).toEqual({ schema: { type: 'string', default: null }, nullable: true })
    expect(labelOf('max_runs', { title: 'RunsConfig' })).toBe('Max runs')
  })

  it('are edited by their kind', () => {
    expect(kind({ enum: ['a'] })).toBe('enum')
    expect(kind({ anyOf: [{ type: 'string' }, { type: 'array', items: { type: 'string' } }] })).toBe('lines')
    expect(kind({ type: 'array', items: { $ref: '#/$defs/A' } })).toBe('list')
    expect(kind({ type: 'object', additionalProperties: { type: 'string' } })).toBe('map')
    expect(kind({ type: 'object', additionalProperties: {} })).toBe('json')
    expect(kind({ 'x-flowork-text': 'duration', anyOf: [{ type: 'number' }, { type: 'string' }] })).toBe('text')
    expect(kind({})).toBe('json')
  })

  it('are made of a manual trigger’s inputs', () => {
    const flow = { triggers: [{ type: 'manual', config: { inputs: [{ name: 'room', type: 'choice', choices: ['hall'], required: true }, { name: 'n', type: 'number', default: 3 }] } }] }
    expect(inputsOf(flow)).toEqual({ type: 'object', properties: { room: { enum: ['hall'] }, n: { type: 'number', default: 3 } }, required: ['room'] })
    expect(inputsOf({ triggers: [{ type: 'manual' }] })).toBeNull()
  })
})

describe('lists that come page by page', () => {
  const away = new ApiError({ type: '#away', title: 'away', status: 0 })

  it('add the next page, and begin anew with another question', async () => {
    const fetch = vi.fn((query: string, cursor: string) => Promise.resolve<Page<string>>({ items: [`${query}${cursor}`], next: cursor ? '' : '2' }))
    const list = usePaged<string, string>(fetch, 'a')
    await list.load()
    expect(list.more.value).toBe(true)
    await list.next()
    expect(list.items.value).toEqual(['a', 'a2'])
    expect(list.more.value).toBe(false)
    await list.load('b')
    expect(list.items.value).toEqual(['b'])
  })

  it('show the answer to the newest question alone', async () => {
    const waiting: ((page: Page<string>) => void)[] = []
    const list = usePaged<string, string>(() => new Promise<Page<string>>((resolve) => waiting.push(resolve)), 'a')
    const first = list.load()
    const second = list.load('b')
    waiting[1]!({ items: ['new'], next: '' })
    waiting[0]!({ items: ['old'], next: '' })
    await Promise.all([first, second])
    expect(list.items.value).toEqual(['new'])
  })

  it('keep what is shown when the engine goes away', async () => {
    let works = true
    const thing = useLoaded(() => (works ? Promise.resolve(1) : Promise.reject(away)))
    await thing.load()
    works = false
    await thing.load()
    expect(thing.value.value).toBe(1)
    expect(thing.error.value).toBe(away)
    expect(thing.busy.value).toBe(false)
  })
})

describe('pages', () => {
  it('have their file’s name as their route', () => {
    expect(['index.vue', 'flows/index.vue', 'flows/[id]/edit.vue', 'dead-letters.vue', '[...path].vue'].map(routeOf)).toEqual(['/', '/flows', '/flows/:id/edit', '/dead-letters', '/:path(.*)*'])
  })

  it('say of themselves what the menu must know', () => {
    expect(blockOf('<page>\n{ "title": "A" }\n</page>\n<script>', 'a.vue')).toEqual({ title: 'A' })
    expect(blockOf('<template/>', 'a.vue')).toEqual({})
    expect(() => blockOf('<page>\n{ title }\n</page>\n', 'a.vue')).toThrow('a.vue')
  })
})
