/** Upstreams: other places with models that the engine may ask. */

import { get, post, put, remove, seg } from './client'
import type { JsonSchema } from '@/lib/schema'

export interface Upstream {
  provider: string
  config: Record<string, unknown>
  [key: string]: unknown
}

export interface UpstreamView {
  name: string
  upstream: Upstream
  place: string
  error: string
}

export interface AllUpstreams {
  items: UpstreamView[]
  providers: Record<string, { title: string; schema: JsonSchema }>
  schema: JsonSchema
  /** The environment sets them. */
  overruled: boolean
}

export const listUpstreams = (signal?: AbortSignal): Promise<AllUpstreams> => get('/upstreams', {}, signal)

export const saveUpstream = (name: string, upstream: Upstream): Promise<UpstreamView> => put(`/upstreams/${seg(name)}`, upstream)

export const removeUpstream = (name: string): Promise<void> => remove(`/upstreams/${seg(name)}`)

export const tryUpstream = (name: string): Promise<{ ok: boolean; models: string[]; error: string; seconds: number }> =>
  post(`/upstreams/${seg(name)}/try`, undefined)
