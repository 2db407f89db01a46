/** Models: those of this machine with their engine, what is on its way, what can be asked, and what was used. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import type { LiveModels } from '@/api/live'
import * as api from '@/api/models'
import { listChoices } from '@/api/questions'
import * as upstreams from '@/api/upstreams'
import { showUsage } from '@/api/usage'
import { useFollowed, useLoaded } from '@/lib/loaded'
import { useLive } from './live'
import { useSession } from './session'

/** Days that the account of models shows. */
const DAYS = 30

export const useModels = defineStore('models', () => {
  const live = useLive()
  const session = useSession()
  const listed = useLoaded(api.listModels)
  const setup = useFollowed(api.showSetup, withSetup)
  const pulls = useFollowed(api.listPulls, withPulls)
  const advice = useLoaded(api.recommend)
  const choices = useLoaded(listChoices)
  const places = useLoaded(upstreams.listUpstreams)
  const usage = useLoaded(async (signal) => {
    const filter = { workspace: session.workspace, days: DAYS }
    const [byFlow, byDay] = await Promise.all([showUsage({ ...filter, by: ['flow', 'model'] }, signal), showUsage({ ...filter, by: ['day'] }, signal)])
    return { ...byFlow, days: byDay.items }
  })
  const underWay = computed(() => (pulls.value.value ?? []).filter((one) => one.state === 'running' || one.state === 'waiting'))
  /** Nowhere is there a model: what asks one cannot be answered. */
  const none = computed(() => choices.value.value?.items.every((place) => !place.models.length && !place.error) ?? false)
  const ended = computed(() => (pulls.value.value ?? []).filter((one) => one.state === 'failed'))

  const load = (): Promise<unknown> => Promise.all([listed.load(), setup.load(), pulls.load()])

  live.watchModels((news) => {
    setup.take(news)
    pulls.take(news)
    if (news.some((one) => one.setup && (one.setup as api.Setup).state !== 'running')) {
      setup.again()
      listed.again()
    }
    if (news.some((one) => one.pull && (one.pull as api.Pull).state === 'done')) {
      listed.again()
      advice.again()
    }
  })
  live.watchReset(() => [listed, setup, pulls].forEach((one) => one.again()))

  async function pull(wanted: api.Wanted): Promise<void> {
    await api.beginPull(wanted)
    await pulls.load() // without an earlier try that failed
  }

  async function stopPull(id: string): Promise<void> {
    await api.cancelPull(id)
    await pulls.load()
  }

  async function begin(again = false): Promise<void> {
    await api.beginSetup(again)
    await setup.load()
  }

  async function stopSetup(): Promise<void> {
    await api.cancelSetup()
    await setup.load()
  }

  async function takeByDefault(model: string): Promise<void> {
    await api.setDefault(model)
    await listed.load()
  }

  async function remove(model: string): Promise<void> {
    await api.removeModel(model)
    await listed.load()
  }

  async function saveUpstream(name: string, upstream: upstreams.Upstream): Promise<void> {
    await upstreams.saveUpstream(name, upstream)
    await Promise.all([places.load(), choices.load()])
  }

  async function removeUpstream(name: string): Promise<void> {
    await upstreams.removeUpstream(name)
    await Promise.all([places.load(), choices.load()])
  }

  return {
    listed, setup, pulls, advice, choices, places, usage, underWay, ended, none,
    load, pull, stopPull, begin, stopSetup, takeByDefault, remove, saveUpstream, removeUpstream,
    offer: api.offerOf, tryUpstream: upstreams.tryUpstream,
  }
})

function withSetup(view: api.SetupView, news: readonly LiveModels[]): api.SetupView {
  return news.reduce((found, { setup }) => (setup ? { ...found, setup: { ...found.setup, ...(setup as api.Setup) } } : found), view)
}

function withPulls(pulls: api.Pull[], news: readonly LiveModels[]): api.Pull[] {
  const all = new Map(pulls.map((one) => [one.id, one]))
  for (const { pull } of news) if (pull) all.set((pull as api.Pull).id, pull as api.Pull)
  return [...all.values()]
}
