import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { all, ApiError, get, lines, newKey, onUnauthorized, post, request, urlOf, useEngine } from './client'

const answers: Response[] = []
const asked: { url: string; init: RequestInit }[] = []

function answer(status: number, body?: unknown, headers: Record<string, string> = {}): void {
  const type = status >= 400 ? 'application/problem+json' : 'application/json'
  answers.push(new Response(body === undefined ? null : JSON.stringify(body), { status, headers: { 'Content-Type': type, ...headers } }))
}

beforeEach(() => {
  answers.length = asked.length = 0
  useEngine({ base: '', token: '' })
  vi.stubGlobal('fetch', (url: string, init: RequestInit) => {
    asked.push({ url, init })
    const next = answers.shift()
    return next ? Promise.resolve(next) : Promise.reject(new TypeError('Failed to fetch'))
  })
})
afterEach(() => vi.unstubAllGlobals())

describe('addresses', () => {
  it('repeats a list, and leaves out what is not set', () => {
    expect(urlOf('/runs', { state: ['failed', 'dead'], text: '', flow: undefined, limit: 5, children: false })).toBe(
      '/api/v1/runs?state=failed&state=dead&limit=5&children=false',
    )
  })

  it('leads to another engine with its token, and without the cookie', async () => {
    useEngine({ base: 'http://box.local:5000/', token: 'flw_x' })
    answer(200, {})
    await get('/flows')
    expect(asked[0]!.url).toBe('http://box.local:5000/api/v1/flows')
    expect(asked[0]!.init.credentials).toBe('omit')
    expect(asked[0]!.init.headers).toMatchObject({ Authorization: 'Bearer flw_x' })
  })
})

describe('requests', () => {
  it('sends what makes a repeated POST harmless', async () => {
    answer(202, { run: 'r' })
    const key = newKey()
    await post('/flows/a/runs', { input: 1 }, { key })
    expect(key).toMatch(/^[0-9a-f]{32}$/)
    expect(asked[0]!.init.headers).toMatchObject({ 'Idempotency-Key': key, 'Content-Type': 'application/json' })
    expect(asked[0]!.init.body).toBe('{"input":1}')
  })

  it('sends no body where there is none', async () => {
    answer(204)
    await post('/runs/r/cancel')
    expect(asked[0]!.init.body).toBeUndefined()
    expect(asked[0]!.init.headers).not.toHaveProperty('Content-Type')
  })

  it('hands out the tag of what was read', async () => {
    answer(200, { id: 'a' }, { ETag: 'W/"7"' })
    expect(await request('GET', '/flows/a')).toMatchObject({ data: { id: 'a' }, etag: 'W/"7"', status: 200 })
  })

  it('walks a list to its end', async () => {
    answer(200, { items: [1, 2], next: 'c' })
    answer(200, { items: [3], next: '' })
    expect(await all('/flows')).toEqual([1, 2, 3])
    expect(asked[1]!.url).toContain('cursor=c')
  })
})

describe('errors', () => {
  const problem = { type: '/docs/errors#invalid-flow', title: 'Unprocessable', status: 422, detail: 'no', problems: [{ path: 'a', message: 'b' }] }

  it('are the engine’s own words', async () => {
    answer(422, problem)
    const error = await get('/flows').catch((fault: unknown) => fault)
    expect(error).toBeInstanceOf(ApiError)
    expect(error).toMatchObject({ id: 'invalid-flow', status: 422, message: 'no', problems: problem.problems, away: false })
  })

  it('tell an engine that is away from one that refuses', async () => {
    expect(await get('/flows').catch((fault: unknown) => fault)).toMatchObject({ away: true, id: 'away', status: 0 })
  })

  it('tell something in between that answers without a reason', async () => {
    answers.push(new Response('<html>', { status: 502, statusText: 'Bad Gateway', headers: { 'Content-Type': 'text/html' } }))
    expect(await get('/flows').catch((fault: unknown) => fault)).toMatchObject({ status: 502, title: 'Bad Gateway' })
  })

  it('tell all who listen that we are not known any more', async () => {
    const heard = vi.fn()
    const stop = onUnauthorized(heard)
    answer(401, { type: '#unauthorized', title: 'Unauthorized', status: 401 })
    await get('/flows').catch(() => undefined)
    stop()
    answer(401, { type: '#unauthorized', title: 'Unauthorized', status: 401 })
    await get('/flows').catch(() => undefined)
    expect(heard).toHaveBeenCalledTimes(1)
  })

  it('let what was called off be called off', async () => {
    const stop = new AbortController()
    stop.abort()
    const error = await get('/flows', {}, stop.signal).catch((fault: unknown) => fault)
    expect(error).not.toBeInstanceOf(ApiError)
  })
})

describe('what is told line by line', () => {
  const told = (...pieces: (string | Uint8Array)[]): void => {
    const bytes = pieces.map((piece) => (typeof piece === 'string' ? new TextEncoder().encode(piece) : piece))
    const body = new ReadableStream({
      start: (stream) => {
        bytes.forEach((piece) => stream.enqueue(piece))
        stream.close()
      },
    })
    answers.push(new Response(body, { headers: { 'Content-Type': 'application/x-ndjson' } }))
  }
  const heard = async (): Promise<unknown[]> => {
    const found: unknown[] = []
    for await (const one of lines('/questions/stream', {}, new AbortController().signal)) found.push(one)
    return found
  }

  it('comes whole, wherever it is cut, and without what only says that there is more to come', async () => {
    const degrees = new TextEncoder().encode('{"text": "30 °C"}\n')
    told('\n{"text": "a"}\n{"te', 'xt": "b"}\n\n', degrees.slice(0, 13), degrees.slice(13), '{"cut')
    expect(await heard()).toEqual([{ text: 'a' }, { text: 'b' }, { text: '30 °C' }])
  })

  it('is refused as everything else', async () => {
    answer(402, { type: '#budget-spent', title: 'Payment Required', status: 402, detail: 'spent' })
    expect(await heard().catch((fault: unknown) => fault)).toMatchObject({ id: 'budget-spent', message: 'spent' })
  })
})
