/** Who is calling, and signing in by signing a challenge. */

import { get, post, remove } from './client'

export interface SessionView {
  signed_in: boolean
  kind: 'user' | 'token' | 'anonymous' | (string & {})
  id: string
  name: string
  /** Role by workspace; `*` is all of them. */
  roles: Record<string, string>
  scopes: string[]
  /** Permissions by workspace; `*` is what concerns all of them. */
  permissions: Record<string, string[]>
  engine: { id: string; version: string }
  expires: number | null
}

export interface Challenge {
  /** To be signed byte for byte (EIP-191). */
  text: string
  expires: number
}

export const whoAmI = (signal?: AbortSignal): Promise<SessionView> => get('/session', {}, signal)

export const challenge = (address: string, chainId = 1): Promise<Challenge> =>
  get('/session/challenge', { address, chain_id: chainId })

export const signIn = (text: string, signature: string): Promise<SessionView> =>
  post('/session', { text, signature })

export const signOut = (): Promise<void> => remove('/session')
