/** What needs a person: counts for the menu, lists for Home. Loaded at the beginning, and again when runs moved. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import { listPairings } from '@/api/agents'
import { listApprovals, type Asked } from '@/api/approvals'
import { listLetters } from '@/api/deadLetters'
import { showHealth, type Finding } from '@/api/health'
import { listTriggers } from '@/api/triggers'
import type { RunView } from '@/api/runs'
import type { TriggerView } from '@/api/triggers'
import { useLoaded } from '@/lib/loaded'
import { useLive } from './live'
import { useSession } from './session'

/** Milliseconds in which what moved is gathered before anything is asked anew; between two rounds of health. */
const GATHER = 400
const ROUND = 15_000
/** Letters that Home lists. */
const LETTERS = 20

export const useAttention = defineStore('attention', () => {
  const session = useSession()
  const live = useLive()
  const approvals = useLoaded<Asked[]>(async (signal) => (await listApprovals(session.workspace, signal)).items)
  const letters = useLoaded<{ items: RunView[]; more: boolean }>(async (signal) => {
    const page = await listLetters({ workspace: session.workspace, letter: 'open', limit: LETTERS }, signal)
    return { items: page.items, more: page.next !== '' }
  })
  const triggers = useLoaded<TriggerView[]>(async (signal) => (await listTriggers({ workspace: session.workspace }, signal)).items)
  /** Agents that a code was made for and that have not come yet. */
  const pairings = useLoaded(async (signal) => (session.may('devices:manage') ? (await listPairings(signal)).items : []))
  const health = useLoaded(showHealth)

  const badTriggers = computed(() => (triggers.value.value ?? []).filter((trigger) => trigger.enabled && trigger.ok === false))
  /** What is said several times in the same words, as of a broker that several triggers ask, is said once. */
  const findings = computed(() => [...new Map((health.value.value?.findings ?? []).map((one) => [`${one.id} ${one.text}`, one])).values()])
  /** How many of them are faults: a notice is only to be known. */
  const faults = computed(() => findings.value.filter((one) => one.level !== 'notice').length)
  /** Findings but those that say of a trigger or of letters what stands in the other lists. */
  const ELSEWHERE = new Set(['trigger', 'dead-letters', 'letters'])
  const otherFindings = computed(() => findings.value.filter((finding) => !ELSEWHERE.has(finding.id) && !isOfTrigger(finding)))
  /** A trigger tells the same of its broker. */
  const isOfTrigger = (finding: Finding): boolean => badTriggers.value.some((trigger) => trigger.status !== '' && finding.text.endsWith(trigger.status))
  const openLetters = computed(() => health.value.value?.history?.open_letters ?? letters.value.value?.items.length ?? 0)
  const counts = computed<Record<string, number>>(() => ({
    approvals: approvals.value.value?.length ?? 0,
    letters: openLetters.value,
    triggers: badTriggers.value.length,
    health: faults.value,
  }))

  const load = (): Promise<unknown> => Promise.all([approvals.load(), letters.load(), triggers.load(), health.load(), pairings.load()])

  let gathering: ReturnType<typeof setTimeout> | undefined
  function soon(): void {
    gathering ??= setTimeout(() => {
      gathering = undefined
      approvals.again()
      letters.again()
      health.again()
    }, GATHER)
  }

  let users = 0
  let round: ReturnType<typeof setInterval> | undefined
  /** Keep it up to date until the returned function is called. */
  function watch(): () => void {
    if (users++ === 0) {
      void load()
      round = setInterval(() => {
        if (document.visibilityState === 'visible') void Promise.all([health.load(), triggers.load(), pairings.load()])
      }, ROUND)
    }
    return () => {
      if (--users === 0) clearInterval(round)
    }
  }

  // Only what changes one of the lists: a run that waits, ends badly, or goes on from where it waited.
  live.watchRuns((runs) => {
    const counted = approvals.value.value?.some((asked) => runs.some((run) => run.run === asked.run)) ?? false
    // What is on its way may count one that does not wait any more.
    if (users > 0 && (counted || approvals.busy.value || runs.some((run) => run.state === 'waiting' || run.letter !== 'none'))) soon()
  })
  live.watchDevices((news) => users > 0 && news.some((event) => event.type === 'agent') && pairings.again())
  live.watchReset(() => users > 0 && void load())

  return { approvals, letters, triggers, pairings, health, badTriggers, findings, faults, otherFindings, openLetters, counts, load, soon, watch }
})
