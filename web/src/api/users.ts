/** People: an address (of a key) with a role by workspace. */

import { get, put, remove, seg, type Page } from './client'

export type Role = 'owner' | 'admin' | 'runner' | 'reader'

export interface UserView {
  address: string
  name: string
  created: number | null
  /** By workspace; `*` is all of them. */
  roles: Record<string, Role>
}

export const listUsers = (
  filter: { workspace?: string; cursor?: string; limit?: number } = {},
  signal?: AbortSignal,
): Promise<Page<UserView>> => get('/users', { ...filter }, signal)

/** `role: null` takes the role in the workspace away. */
export const saveUser = (address: string, role: Role | null, name = '', workspace?: string): Promise<UserView> =>
  put(`/users/${seg(address)}`, { role, name }, { query: { workspace } })

export const removeUser = (address: string): Promise<void> => remove(`/users/${seg(address)}`)
