/** Engine tokens: what programs show to the API. */

import { get, post, remove, seg, type Page } from './client'

export interface TokenView {
  id: string
  name: string
  workspace: string
  scopes: string[]
  made_by: string
  created: number
  expires: number | null
  last_used: number | null
  revoked: number | null
}

export interface MadeToken extends TokenView {
  /** Shown this once. */
  token: string
}

export const listTokens = (
  filter: { workspace?: string; cursor?: string; limit?: number } = {},
  signal?: AbortSignal,
): Promise<Page<TokenView>> => get('/tokens', { ...filter }, signal)

/** `lifetime` in seconds; without an end if left out. */
export const createToken = (
  token: { name: string; scopes: readonly string[]; lifetime?: number },
  workspace?: string,
  key?: string,
): Promise<MadeToken> => post('/tokens', token, { query: { workspace }, key })

export const revokeToken = (id: string): Promise<void> => remove(`/tokens/${seg(id)}`)
