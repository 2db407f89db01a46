/**
 * The way to the engine. Nothing outside of `src/api/` fetches.
 *
 * The panel usually comes from the engine that it steers: then the address is empty and the session's cookie says who
 * one is. A panel that lies elsewhere has the engine's address, and an engine token.
 */

/** An engine: where it is (`''`: where this page came from), and the token for it (`''`: the session's cookie). */
export interface Engine {
  base: string
  token: string
}

/** One fault of what was sent, with its place. */
export interface Problem {
  path: string
  message: string
}

/** What went wrong (RFC 9457), as the engine tells it. */
export interface ProblemDetails {
  type: string
  title: string
  status: number
  detail?: string
  problems?: Problem[]
  retry_after?: number | null
  extra?: unknown
  incident?: string
}

/** A page of a list; `next` is the cursor of the page behind it, empty at the end. */
export interface Page<T> {
  items: T[]
  next: string
}

/** Anything that did not work. `id` is what `/docs/errors` explains; `away` if the engine was not reached at all. */
export class ApiError extends Error {
  readonly id: string
  readonly status: number
  readonly title: string
  readonly problems: readonly Problem[]
  readonly retryAfter: number | null
  readonly extra: unknown
  readonly incident: string

  constructor(details: ProblemDetails) {
    super(details.detail || details.title)
    this.name = 'ApiError'
    this.id = details.type.split('#')[1] ?? ''
    this.status = details.status
    this.title = details.title
    this.problems = details.problems ?? []
    this.retryAfter = details.retry_after ?? null
    this.extra = details.extra
    this.incident = details.incident ?? ''
  }

  get away(): boolean {
    return this.status === 0
  }
}

export type Query = Record<string, string | number | boolean | readonly string[] | null | undefined>

export interface Options {
  query?: Query
  body?: unknown
  signal?: AbortSignal
  /** The `ETag` of what was edited. */
  ifMatch?: string
  /** Makes a repeated POST harmless; one of `newKey()`. */
  key?: string
}

export interface Answer<T> {
  data: T
  etag: string
  status: number
}

const PREFIX = '/api/v1'

let engine: Engine = { base: '', token: '' }
const unauthorized = new Set<() => void>()

/** Talk to this engine from now on. */
export function useEngine(next: Engine): void {
  engine = { base: next.base.replace(/\/+$/, ''), token: next.token }
}

/** The engine that is talked to. */
export function currentEngine(): Readonly<Engine> {
  return engine
}

/** Tell `listener` when the engine does not know us (any more). Returns the way to stop that. */
export function onUnauthorized(listener: () => void): () => void {
  unauthorized.add(listener)
  return () => unauthorized.delete(listener)
}

/** A key for one attempt. `crypto.randomUUID` is missing on pages over plain http. */
export function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** The whole address of something below `/api/v1`, for links and downloads. */
export function urlOf(path: string, query: Query = {}): string {
  const search = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) {
    if (value === null || value === undefined || value === '') continue
    for (const one of Array.isArray(value) ? (value as readonly string[]) : [value]) search.append(name, String(one))
  }
  const text = search.toString()
  return `${engine.base}${PREFIX}${path}${text ? `?${text}` : ''}`
}

/** One request. Rejects with an `ApiError`, or with an `AbortError` if it was called off. */
export async function request<T>(method: string, path: string, options: Options = {}): Promise<Answer<T>> {
  const response = await sent(method, path, options)
  const data = await reached(options, () => bodyOf(response))
  return { data: data as T, etag: response.headers.get('ETag') ?? '', status: response.status }
}

/** What is told line by line, as it comes; the engine sends empty lines while it has nothing to tell. */
export async function* lines<T>(path: string, body: unknown, signal: AbortSignal): AsyncGenerator<T> {
  const response = await sent('POST', path, { body, signal })
  const reader = response.body!.getReader()
  const decoder = new TextDecoder()
  let rest = ''
  for (;;) {
    const { done, value } = await reached({ signal }, () => reader.read())
    if (done) return
    const [first = '', ...more] = (rest + decoder.decode(value, { stream: true })).split('\n')
    const whole = more.length ? [first, ...more.slice(0, -1)] : []
    rest = more.length ? more.at(-1)! : first
    for (const line of whole) if (line) yield JSON.parse(line) as T
  }
}

/** The answer to one request, unless it is a refusal. */
async function sent(method: string, path: string, options: Options): Promise<Response> {
  const headers: Record<string, string> = { Accept: 'application/json' }
  if (options.body !== undefined) headers['Content-Type'] = 'application/json'
  if (options.ifMatch) headers['If-Match'] = options.ifMatch
  if (options.key) headers['Idempotency-Key'] = options.key
  if (engine.token) headers.Authorization = `Bearer ${engine.token}`
  const response = await reached(options, () =>
    fetch(urlOf(path, options.query), {
      method,
      headers,
      body: options.body === undefined ? undefined : JSON.stringify(options.body),
      signal: options.signal,
      credentials: engine.base ? 'omit' : 'same-origin',
    }),
  )
  if (response.ok) return response
  const data = await reached(options, () => bodyOf(response))
  if (response.status === 401) unauthorized.forEach((listener) => listener())
  throw new ApiError(isProblem(data) ? data : unexplained(response))
}

async function bodyOf(response: Response): Promise<unknown> {
  const text = await response.text()
  return /\bjson\b/.test(response.headers.get('Content-Type') ?? '') && text ? JSON.parse(text) : text
}

/** What the network gives, or the `ApiError` that it gave nothing. */
async function reached<T>(options: Options, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (options.signal?.aborted || (error as Error).name === 'AbortError' || error instanceof SyntaxError) throw error
    throw new ApiError({
      type: '#away',
      title: 'The engine does not answer',
      status: 0,
      detail: 'It may be starting, switched off, or out of reach of this network.',
    })
  }
}

function isProblem(data: unknown): data is ProblemDetails {
  return typeof data === 'object' && data !== null && 'status' in data && 'type' in data
}

/** Something between here and the engine answered. */
function unexplained(response: Response): ProblemDetails {
  const title = response.statusText || `HTTP ${response.status}`
  return { type: '', title, status: response.status, detail: `The answer was ${response.status} without a reason.` }
}

export async function get<T>(path: string, query?: Query, signal?: AbortSignal): Promise<T> {
  return (await request<T>('GET', path, { query, signal })).data
}

export async function post<T>(path: string, body?: unknown, options: Options = {}): Promise<T> {
  return (await request<T>('POST', path, { ...options, body })).data
}

export async function put<T>(path: string, body: unknown, options: Options = {}): Promise<T> {
  return (await request<T>('PUT', path, { ...options, body })).data
}

export async function patch<T>(path: string, body: unknown, options: Options = {}): Promise<T> {
  return (await request<T>('PATCH', path, { ...options, body })).data
}

export async function remove(path: string, query?: Query): Promise<void> {
  await request('DELETE', path, { query })
}

/** All items of a list, page by page; for lists that are known to be short. */
export async function all<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T[]> {
  const items: T[] = []
  let cursor = ''
  do {
    const page = await get<Page<T>>(path, { limit: 500, ...query, cursor }, signal)
    items.push(...page.items)
    cursor = page.next
  } while (cursor)
  return items
}

/** Part of a path, as one segment of it. */
export const seg = encodeURIComponent
