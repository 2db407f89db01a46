/** Secrets: `secrets.<name>` in flows. They can be set and used, and never read. */

import { get, put, remove, seg, type Page } from './client'

export interface SecretView {
  name: string
  updated: number
  /** The flows that mention it, if that was asked for. */
  used_by: string[] | null
}

export const listSecrets = (
  filter: { workspace?: string; uses?: boolean } = {},
  signal?: AbortSignal,
): Promise<Page<SecretView>> => get('/secrets', { ...filter }, signal)

export const setSecret = (name: string, value: string, workspace?: string): Promise<void> =>
  put(`/secrets/${seg(name)}`, { value }, { query: { workspace } })

export const deleteSecret = (name: string, workspace?: string): Promise<void> =>
  remove(`/secrets/${seg(name)}`, { workspace })
