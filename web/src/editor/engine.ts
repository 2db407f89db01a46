/** The editor's questions, put to the engine that the panel steers. */

import { showCatalog } from '@/api/catalog'
import { ApiError } from '@/api/client'
import { rollBack } from '@/api/deployments'
import { compareDraft, evaluate, rehearse, tryNode } from '@/api/drafts'
import { saveFlow, showFlow, validateFlow } from '@/api/flows'
import type { FlowBody } from '@/api/versions'
import { listRuns, showRun } from '@/api/runs'
import { listSecrets } from '@/api/secrets'
import { listVariables } from '@/api/variables'
import { listVersions, showVersion } from '@/api/versions'
import type { Backend, Collision, FlowState, Rehearsed, RunData, SaveResult, Tried } from './backend'
import type { FlowDoc } from './flowdoc'
import type { FlowDiff } from './marks'
import type { Kind, Kinds } from './sceneof'

export async function loadKinds(): Promise<Kinds> {
  const catalog = await showCatalog()
  const byType = (kinds: readonly unknown[]): Map<string, Kind> => new Map((kinds as Kind[]).map((kind) => [kind.type, kind]))
  return { nodes: byType(catalog.nodes), triggers: byType(catalog.triggers) }
}

const body = (flow: FlowDoc): FlowBody => flow as unknown as FlowBody

export function engineOf(id: string): Backend {
  let workspace = 'default'
  const take = (flow: unknown): FlowState => {
    const state = flow as FlowState
    workspace = state.workspace
    return state
  }
  return {
    load: async () => take((await showFlow(id)).data),
    check: (flow) => validateFlow(body(flow), id, workspace),
    async save(flow, base, { message, draft, deploy }): Promise<SaveResult> {
      try {
        return { saved: take((await saveFlow(id, { flow: body(flow), base, message, deploy }, draft)).data) }
      } catch (error) {
        if (!(error instanceof ApiError)) throw error
        if (error.status === 409 && isCollision(error.extra)) return { collision: error.extra }
        if (error.status === 422 && error.problems.length) return { problems: [...error.problems] }
        throw error
      }
    },
    compare: async (flow, version) => (await compareDraft(id, body(flow), version)) as unknown as FlowDiff,
    versions: async () => (await listVersions(id)).items,
    version: async (number) => {
      const found = await showVersion(id, number)
      return { ...found, flow: found.flow as unknown as FlowDoc }
    },
    rollback: async (number) => take(await rollBack(id, number)),
    runs: async () => (await listRuns({ workspace, flow: [id], limit: 20 })).items,
    run: async (run) => (await showRun(run)) as unknown as RunData,
    evaluate: async (run, node, text) => {
      const given = await evaluate(run, node, text.source, text.expression, text.behind)
      return { value: given.value, error: given.error ?? '' }
    },
    tryOut: async (trial) => (await tryNode(id, trial as never)) as unknown as Tried,
    rehearse: async (flow, payload, event) => (await rehearse(body(flow), payload, event as Record<string, unknown>, workspace)) as unknown as Rehearsed,
    async names() {
      const [vars, secrets] = await Promise.allSettled([listVariables({ workspace }), listSecrets({ workspace })])
      return {
        vars: vars.status === 'fulfilled' ? Object.fromEntries(vars.value.items.map((one) => [one.name, one.value])) : {},
        secrets: secrets.status === 'fulfilled' ? secrets.value.items.map((one) => one.name) : [],
      }
    },
  }
}

function isCollision(extra: unknown): extra is Collision {
  return typeof extra === 'object' && extra !== null && 'newest' in extra
}
