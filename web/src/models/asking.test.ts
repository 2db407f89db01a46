import { effectScope } from 'vue'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { useAsking, type Asking } from './asking'

const REPLY = { text: 'wet stone', model: 'tiny', tokens_out: 2 }
let now = 0
let told: ReadableStreamDefaultController<Uint8Array>
let signal: AbortSignal
const scope = effectScope()

const say = async (...items: unknown[]): Promise<void> => {
  for (const item of items) told.enqueue(new TextEncoder().encode(JSON.stringify(item) + '\n'))
  await new Promise((done) => setTimeout(done))
}

beforeEach(() => {
  now = 0
  vi.stubGlobal('fetch', (_: string, init: RequestInit) => {
    signal = init.signal!
    return Promise.resolve(new Response(new ReadableStream({ start: (stream) => void (told = stream) })))
  })
})
afterEach(() => vi.unstubAllGlobals())

function asked(): { asking: Asking; over: Promise<void> } {
  const asking = scope.run(() => useAsking(() => now))!
  return { asking, over: asking.ask({ messages: [{ role: 'user', content: 'rain?' }] }) }
}

it('shows the words as they come, how fast they do, and then the whole answer', async () => {
  const { asking, over } = asked()
  await say({ text: 'wet' })
  expect([asking.words.value, asking.pace.value, asking.busy.value]).toEqual(['wet', 0, true])
  now = 100
  await say({ text: ' stone' })
  expect([asking.words.value, asking.pace.value]).toEqual(['wet stone', 10])
  await say({ reply: REPLY })
  await over
  expect([asking.reply.value?.text, asking.busy.value]).toEqual(['wet stone', false])
})

it('begins again where another model is asked', async () => {
  const { asking, over } = asked()
  await say({ text: 'dry' }, { anew: true }, { text: 'wet' })
  expect(asking.words.value).toBe('wet')
  await say({ reply: REPLY })
  await over
})

it('keeps what was said when it is stopped', async () => {
  const { asking, over } = asked()
  await say({ text: 'wet' })
  asking.stop()
  expect([asking.words.value, asking.busy.value, asking.stopped.value, signal.aborted]).toEqual(['wet', false, true, true])
  await say({ text: ' stone' }, { reply: REPLY })
  await over
  expect([asking.words.value, asking.reply.value]).toEqual(['wet', null])
})

it('says why it broke off, and that it did where nobody says why', async () => {
  const first = asked()
  await say({ text: 'wet' }, { error: { type: '#node-failed', title: 'no', status: 502, detail: 'the model is gone' } })
  await first.over
  expect([first.asking.error.value, first.asking.words.value]).toEqual(['the model is gone', 'wet'])
  const second = asked()
  await say({ text: 'wet' })
  told.close()
  await second.over
  expect(second.asking.error.value).toContain('broke off')
})
