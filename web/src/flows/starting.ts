/** What starting a run by hand begins with: the version that will run, and what its newest run got. */

import { showFlow } from '@/api/flows'
import type { FlowBody } from '@/api/versions'
import { listRuns, showRun } from '@/api/runs'
import { showVersion } from '@/api/versions'
import type { JsonSchema } from '@/lib/schema'

/** Characters of JSON beyond which what the newest run got is no help in a form. */
const MOST = 20_000

export interface Start {
  body: FlowBody
  /** Left out where there is no run yet, or what it got cannot be used again. */
  last?: unknown
}

/** Rejects with an `ApiError` if the flow cannot be shown; without its runs it can be started all the same. */
export async function startOf(flow: string, signal: AbortSignal): Promise<Start> {
  const { data } = await showFlow(flow, signal)
  const [body, last] = await Promise.all([
    data.live === null || data.live === data.newest ? data.flow : showVersion(flow, data.live, signal).then((version) => version.flow),
    lastPayload(flow, data.workspace, signal).catch(() => undefined),
  ])
  return { body, last }
}

async function lastPayload(flow: string, workspace: string, signal: AbortSignal): Promise<unknown> {
  const newest = (await listRuns({ workspace, flow: [flow], limit: 1 }, signal)).items[0]
  const payload = newest && (await showRun(newest.id, 'full', signal)).payload
  const text = payload === undefined || payload === null ? '' : JSON.stringify(payload)
  // What was put aside as a file, or was scrubbed, is not what the run got.
  return text && text.length <= MOST && !text.includes('"$blob"') ? payload : undefined
}

/** Of a payload, what the fields of a form can show. */
export function filledFrom(schema: JsonSchema, payload: unknown): Record<string, unknown> {
  if (typeof payload !== 'object' || payload === null || Array.isArray(payload)) return {}
  const fields = schema.properties ?? {}
  return Object.fromEntries(Object.entries(payload).filter(([name, value]) => name in fields && fits(fields[name]!, value)))
}

function fits(field: JsonSchema, value: unknown): boolean {
  return field.enum ? field.enum.includes(value) : typeof value === field.type
}
