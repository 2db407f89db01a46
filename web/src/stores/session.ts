/** Who one is, what one may do, and what this engine can do. */

import { defineStore } from 'pinia'
import { computed, ref, shallowRef } from 'vue'
import { ApiError, onUnauthorized } from '@/api/client'
import { showOpenApi } from '@/api/openapi'
import * as api from '@/api/session'
import { keep, readKept } from '@/lib/kept'

const EVERYWHERE = '*'

export const useSession = defineStore('session', () => {
  const view = shallowRef<api.SessionView | null>(null)
  const paths = shallowRef<ReadonlySet<string>>(new Set())
  const error = shallowRef<ApiError | null>(null)
  let asked = false
  /** The session ended while the page was open. */
  const ended = ref(false)

  const signedIn = computed(() => view.value?.signed_in ?? false)
  const name = computed(() => view.value?.name || view.value?.id || '')
  const places = computed(() => Object.keys(view.value?.permissions ?? {}))
  /** What lists show: everything that one may see. */
  const workspace = computed(() => (places.value.includes(EVERYWHERE) ? EVERYWHERE : (places.value[0] ?? 'default')))
  /** Where new things go. */
  const home = computed(() => (workspace.value === EVERYWHERE ? 'default' : workspace.value))
  const role = computed(() => view.value?.roles[EVERYWHERE] ?? view.value?.roles[home.value] ?? view.value?.kind ?? '')

  /** May one do this, in this workspace or (left out) in any? */
  function may(permission: string, where?: string): boolean {
    const all = view.value?.permissions ?? {}
    const asked = where === undefined ? Object.keys(all) : [where, EVERYWHERE]
    return asked.some((place) => all[place]?.includes(permission) ?? false)
  }

  /** Does this engine have a path of the API, such as `/devices`? */
  const has = (path: string): boolean => paths.value.has(`/api/v1${path}`)

  function take(found: api.SessionView): void {
    view.value = found
    ended.value = false
    error.value = null
  }

  /** What the engine can do: at once as this browser knows it from the last time, and then as it is. */
  async function learn(): Promise<void> {
    asked = true
    const name = `paths.${view.value!.engine.id}`
    const known = readKept<string[]>(name, [])
    if (known.length > 0) paths.value = new Set(known)
    try {
      const found = Object.keys((await showOpenApi()).paths)
      paths.value = new Set(found)
      keep(name, found)
    } catch (problem) {
      if (!(problem instanceof ApiError)) throw problem
      asked = false
    }
  }

  /** Ask the engine who we are. Never rejects: `error` says why it is not known. */
  async function load(): Promise<void> {
    try {
      take(await api.whoAmI())
      if (signedIn.value && !asked) void learn()
    } catch (problem) {
      if (!(problem instanceof ApiError)) throw problem
      // A token that the engine does not take: it has answered, and we are nobody to it.
      error.value = problem.status === 401 ? null : problem
    }
  }

  async function signIn(text: string, signature: string): Promise<void> {
    take(await api.signIn(text, signature))
    await load()
  }

  async function signOut(): Promise<void> {
    await api.signOut()
    forget()
  }

  function forget(): void {
    view.value = null
    paths.value = new Set()
    asked = false
  }

  onUnauthorized(() => {
    ended.value = signedIn.value
    view.value = null
  })

  return { view, error, ended, signedIn, name, role, places, workspace, home, may, has, load, signIn, signOut, forget }
})
