/** The audit log: who changed what, in a chain of hashes. */

import { get, type Page } from './client'

export interface AuditEntry {
  seq: number
  at: number
  actor: string
  action: string
  target: string
  workspace: string
  detail: unknown
  hash: string
}

export interface Verified {
  ok: boolean
  count: number
  head: string
  broken?: number | null
  reason?: string
}

export const listAudit = (
  filter: { actor?: string; action?: string; workspace?: string; cursor?: string; limit?: number } = {},
  signal?: AbortSignal,
): Promise<Page<AuditEntry>> => get('/audit', { ...filter }, signal)

export const verifyAudit = (signal?: AbortSignal): Promise<Verified> => get('/audit/verify', {}, signal)
