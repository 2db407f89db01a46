/** Variables: `vars.<name>` in the flows of a workspace. */

import { get, put, remove, seg, type Page } from './client'

export interface VariableView {
  name: string
  value: unknown
  updated: number
  /** The flows that mention it, if that was asked for. */
  used_by: string[] | null
}

export const listVariables = (
  filter: { workspace?: string; uses?: boolean } = {},
  signal?: AbortSignal,
): Promise<Page<VariableView>> => get('/variables', { ...filter }, signal)

export const setVariable = (name: string, value: unknown, workspace?: string): Promise<VariableView> =>
  put(`/variables/${seg(name)}`, { value }, { query: { workspace } })

export const deleteVariable = (name: string, workspace?: string): Promise<void> =>
  remove(`/variables/${seg(name)}`, { workspace })
