/** Roles of people and scopes of tokens: what they may do, and which of them one may give away. */

import { get, type Page } from './client'
import type { Role } from './users'

export interface Power {
  /** In a workspace. */
  permissions: string[]
  /** What comes besides, if it holds in all workspaces. */
  engine: string[]
  /** May we give it to somebody in this workspace? */
  grantable: boolean
}

export interface RoleView extends Power {
  role: Role
}

export interface ScopeView extends Power {
  scope: string
}

/** Highest first. */
export const listRoles = (workspace?: string, signal?: AbortSignal): Promise<Page<RoleView>> =>
  get('/roles', { workspace }, signal)

export const listScopes = (workspace?: string, signal?: AbortSignal): Promise<Page<ScopeView>> =>
  get('/scopes', { workspace }, signal)
