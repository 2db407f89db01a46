/** Models: those of this machine with their engine, what is on its way, what can be asked, and what was used. */

import { defineStore } from 'pinia'
import { computed } from 'vue'
import * as api from '@/api/models'
import { listChoices } from '@/api/questions'
import * as upstreams from '@/api/upstreams'
import { showUsage } from '@/api/usage'
import { useLoaded } from '@/lib/loaded'
import { useLive } from './live'
import { useSession } from './session'

/** Days that the account of models shows. */
const DAYS = 30

export const useModels = defineStore('models', () => {
  const live = useLive()
  const session = useSession()
  const listed = useLoaded(api.listModels)
  const setup = useLoaded(api.showSetup)
  const pulls = useLoaded(api.listPulls)
  const advice = useLoaded(api.recommend)
  const choices = useLoaded(listChoices)
  const places = useLoaded(upstreams.listUpstreams)
  const usage = useLoaded(async (signal) => {
    const filter = { workspace: session.workspace, days: DAYS }
    const [byFlow, byDay] = await Promise.all([showUsage({ ...filter, by: ['flow', 'model'] }, signal), showUsage({ ...filter, by: ['day'] }, signal)])
    return { ...byFlow, days: byDay.items }
  })
  const underWay = computed(() => (pulls.value.value ?? []).filter((one) => one.state === 'running' || one.state === 'waiting'))
  const ended = computed(() => (pulls.value.value ?? []).filter((one) => one.state === 'failed'))

  const load = (): Promise<unknown> => Promise.all([listed.load(), setup.load(), pulls.load()])

  live.watchModels((news) => {
    for (const { setup: now, pull } of news) {
      if (now) takeSetup(now as api.Setup)
      if (pull) takePull(pull as api.Pull)
    }
  })
  live.watchReset(() => listed.value.value !== null && void load())

  function takeSetup(now: api.Setup): void {
    const before = setup.value.value
    if (before) setup.value.value = { ...before, setup: { ...before.setup, ...now } }
    if (now.state !== 'running') void Promise.all([setup.load(), listed.load()])
  }

  function takePull(pull: api.Pull): void {
    const before = pulls.value.value ?? []
    pulls.value.value = before.some((one) => one.id === pull.id) ? before.map((one) => (one.id === pull.id ? pull : one)) : [...before, pull]
    if (pull.state === 'done') void Promise.all([listed.load(), advice.value.value && advice.load()])
  }

  async function pull(wanted: api.Wanted): Promise<void> {
    takePull(await api.beginPull(wanted))
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
    listed, setup, pulls, advice, choices, places, usage, underWay, ended,
    load, pull, stopPull, begin, stopSetup, takeByDefault, remove, saveUpstream, removeUpstream,
    offer: api.offerOf, tryUpstream: upstreams.tryUpstream,
  }
})
