/** The audit log, page by page, and whether it is whole. */

import { defineStore } from 'pinia'
import { listAudit, verifyAudit, type AuditEntry } from '@/api/audit'
import { useLoaded } from '@/lib/loaded'
import { usePaged } from '@/lib/paged'

export interface AuditQuery {
  actor: string
  action: string
  workspace: string
}

const AT_ONCE = 100

export const useAudit = defineStore('audit', () => {
  const first: AuditQuery = { actor: '', action: '', workspace: '*' }
  const log = usePaged<AuditEntry, AuditQuery>(
    (query, cursor, signal) => listAudit({ ...query, cursor, limit: AT_ONCE }, signal),
    first,
  )
  const chain = useLoaded(verifyAudit)
  return { log, chain }
})
