/** Machines with drivers and what hangs on them, kept up to date by what comes live. */

import { defineStore } from 'pinia'
import { computed, shallowRef } from 'vue'
import * as agents from '@/api/agents'
import { ApiError, newKey } from '@/api/client'
import * as api from '@/api/devices'
import { useLoaded } from '@/lib/loaded'
import { useLive } from './live'
import { useSession } from './session'

/** Points of a line; milliseconds in which what agents do is gathered before they are asked for anew. */
const POINTS = 120
const GATHER = 500

export const useDevices = defineStore('devices', () => {
  const live = useLive()
  const session = useSession()
  const found = useLoaded(api.listDevices)
  const machines = useLoaded(async (signal) => (await agents.listAgents(signal)).items)
  const pairings = useLoaded(async (signal) => (session.may('devices:manage') ? (await agents.listPairings(signal)).items : []))
  const lines = shallowRef<ReadonlyMap<string, number[]>>(new Map())
  const items = computed(() => found.value.value ?? [])

  async function load(): Promise<void> {
    await Promise.all([found.load(), machines.load(), pairings.load()])
    await Promise.all(items.value.filter((one) => one.kind === 'number' && !lines.value.has(one.id)).map((one) => loadLine(one.id)))
  }

  async function loadLine(id: string): Promise<void> {
    try {
      const { points } = await api.showHistory(id)
      lines.value = new Map(lines.value).set(id, points.slice(-POINTS).map(([, value]) => value))
    } catch (problem) {
      // Without its history it has no line; its value is there all the same.
      if (!(problem instanceof ApiError)) throw problem
    }
  }

  /** New values into the list, and numbers behind their lines. */
  function say(id: string, value: unknown, last: string, time: number): void {
    found.value.value = items.value.map((one) => (one.id === id ? { ...one, value, last, time, online: true } : one))
    const line = lines.value.get(id)
    if (line && typeof value === 'number') lines.value = new Map(lines.value).set(id, [...line, value].slice(-POINTS))
  }

  let gathering: ReturnType<typeof setTimeout> | undefined
  function soon(): void {
    gathering ??= setTimeout(() => {
      gathering = undefined
      void load()
    }, GATHER)
  }

  let users = 0
  live.watchDevices((news) => {
    if (users === 0) return
    for (const event of news) {
      if (event.type === 'agent') soon()
      else {
        for (const { device, value, kind, time } of event.values) {
          if (items.value.some((one) => one.id === device)) say(device, value, kind, time)
          else soon()
        }
      }
    }
  })
  live.watchReset(() => {
    if (users > 0) soon()
  })

  /** Keep it up to date until the returned function is called. */
  function watch(): () => void {
    if (users++ === 0) void load()
    return () => void users--
  }

  const command = async (id: string, value: unknown): Promise<void> => void (await api.commandDevice(id, value, newKey()))

  async function pair(name: string): Promise<agents.MadePairing> {
    const made = await agents.pairAgent(name)
    void pairings.load()
    return made
  }

  async function unpair(name: string): Promise<void> {
    await agents.endPairing(name)
    await pairings.load()
  }

  async function revoke(name: string): Promise<void> {
    await agents.revokeAgent(name)
    await load()
  }

  return { found, machines, pairings, items, lines, load, watch, command, pair, unpair, revoke }
})
