/** The triggers of all live versions, with what they did last. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import * as api from '@/api/triggers'
import { showVersion } from '@/api/versions'
import { newKey } from '@/api/client'
import { useLoaded } from '@/lib/loaded'
import { useSession } from './session'

/** A trigger's config as its flow has it. */
export type TriggerConfig = Record<string, unknown>

export const useTriggers = defineStore('triggers', () => {
  const session = useSession()
  const { value, loading, error, load, again } = useLoaded(
    async (signal) => (await api.listTriggers({ workspace: session.workspace, last: true }, signal)).items,
  )
  const items = computed(() => value.value ?? [])

  /** What the trigger is set to, in the version that is live. */
  async function configOf(trigger: api.TriggerView): Promise<TriggerConfig> {
    const { flow } = await showVersion(trigger.flow, trigger.version)
    const all = Array.isArray(flow.triggers) ? (flow.triggers as { id?: string; config?: TriggerConfig }[]) : []
    return all.find((one) => one.id === trigger.id)?.config ?? {}
  }

  /** Start a run as if it had fired; the run's id. */
  async function fire(trigger: api.TriggerView, payload: unknown): Promise<string> {
    const { run } = await api.fireTrigger(trigger.flow, trigger.id, { payload, version: trigger.version }, newKey())
    return run
  }

  return { items, loading, error, load, again, configOf, fire }
})
