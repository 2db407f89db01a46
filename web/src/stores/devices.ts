/** Machines with drivers and what hangs on them, kept up to date by what comes live. */

import { defineStore } from 'pinia'
import { computed, shallowRef } from 'vue'
import * as agents from '@/api/agents'
import { ApiError, newKey } from '@/api/client'
import * as api from '@/api/devices'
import type { LiveDevices } from '@/api/live'
import { useFollowed, useLoaded } from '@/lib/loaded'
import { useLive } from './live'
import { useSession } from './session'

/** Points of a line; milliseconds in which what agents do is gathered before they are asked for anew. */
const POINTS = 120
const GATHER = 500

export const useDevices = defineStore('devices', () => {
  const live = useLive()
  const session = useSession()
  const found = useFollowed(api.listDevices, withValues)
  const machines = useLoaded(async (signal) => (await agents.listAgents(signal)).items)
  const pairings = useLoaded(async (signal) => (session.may('devices:manage') ? (await agents.listPairings(signal)).items : []))
  const lines = shallowRef<ReadonlyMap<string, number[]>>(new Map())
  /** Those whose line has all that was said. */
  const drawn = new Set<string>()
  const items = computed(() => found.value.value ?? [])

  async function load(): Promise<void> {
    await Promise.all([found.load(), machines.load(), pairings.load()])
    await loadLines()
  }

  const loadLines = (): Promise<unknown> =>
    Promise.all(items.value.filter((one) => one.kind === 'number' && !drawn.has(one.id)).map((one) => loadLine(one.id)))

  async function loadLine(id: string): Promise<void> {
    drawn.add(id)
    try {
      const { points } = await api.showHistory(id)
      lines.value = new Map(lines.value).set(id, points.slice(-POINTS).map(([, value]) => value))
    } catch (problem) {
      // Without its history it has no line; its value is there all the same.
      if (!(problem instanceof ApiError)) throw problem
    }
  }

  /** Numbers behind their lines. */
  function draw(news: readonly LiveDevices[]): void {
    const next = new Map(lines.value)
    for (const { device, value } of news.flatMap((event) => event.values)) {
      const line = next.get(device)
      if (line && typeof value === 'number') next.set(device, [...line, value].slice(-POINTS))
    }
    lines.value = next
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
    const values = news.filter((event) => event.type === 'devices')
    found.take(values)
    draw(values)
    const isNew = values.some((event) => event.values.some(({ device }) => !items.value.some((one) => one.id === device)))
    if (values.length < news.length || isNew) soon()
  })
  live.watchReset(() => {
    if (users === 0) return
    drawn.clear()
    soon()
  })

  /** Keep it up to date until the returned function is called. */
  function watch(): () => void {
    if (users++ === 0) {
      // Nobody has listened: the lines have gaps.
      drawn.clear()
      void load()
    }
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

/** The list with what devices say now. */
function withValues(devices: api.DeviceView[], news: readonly LiveDevices[]): api.DeviceView[] {
  const said = new Map(news.flatMap((event) => event.values).map((one) => [one.device, one]))
  return devices.map((one) => {
    const now = said.get(one.id)
    return now === undefined || now.time < one.time ? one : { ...one, value: now.value, last: now.kind, time: now.time, online: true }
  })
}
