/** Restoring this engine: sending a backup part by part, opening it, and waiting for the engine that comes back. */

import { defineStore } from 'pinia'
import { ref, shallowRef } from 'vue'
import { ApiError } from '@/api/client'
import type { Opening } from '@/api/backups'
import * as api from '@/api/restore'
import { whoAmI } from '@/api/session'
import { pause, sendInParts } from '@/lib/parts'

/** Milliseconds between two looks. */
const ROUND = 500

/** `asks`: all of it was sent; `over`: the restored engine has answered. */
export type Stage = 'choose' | 'sending' | 'asks' | 'unpacking' | 'starting' | 'over' | 'failed'

export const useRestore = defineStore('restore', () => {
  const stage = ref<Stage>('choose')
  /** Bytes. */
  const done = ref(0)
  const total = ref(0)
  const sealed = ref<api.RestoreView['sealed']>(null)
  const problem = shallowRef<string>('')
  /** The restored engine runs, and does not know who is signed in here. */
  const signInAnew = ref(false)
  let sending: AbortController | null = null

  function fail(error: unknown): void {
    if (!(error instanceof Error)) throw error
    stage.value = 'failed'
    problem.value = error.message
  }

  async function send(file: Blob): Promise<void> {
    const mine = (sending = new AbortController())
    stage.value = 'sending'
    problem.value = ''
    total.value = file.size
    done.value = 0
    try {
      const view = await sendInParts(file, api.sendPart, mine.signal, (sent) => (done.value = sent))
      sealed.value = view.sealed
      stage.value = 'asks'
    } catch (error) {
      if (!mine.signal.aborted) fail(error)
    }
  }

  /** Forget what was sent, and choose anew. */
  async function reset(): Promise<void> {
    sending?.abort()
    stage.value = 'choose'
    problem.value = ''
    sealed.value = null
    try {
      await api.forgetUpload()
    } catch (error) {
      // It is overwritten by the next one.
      if (!(error instanceof ApiError)) throw error
    }
  }

  /** Have it unpacked and wait for the engine that comes back. Without a name the one that was sent. */
  async function begin(how: Opening & { name?: string; as_another?: boolean }): Promise<void> {
    stage.value = 'unpacking'
    problem.value = ''
    done.value = total.value = 0
    try {
      await api.beginRestore(how)
      await follow()
    } catch (error) {
      fail(error)
    }
  }

  async function follow(): Promise<void> {
    for (;;) {
      await pause(ROUND)
      let view: api.RestoreView | null = null
      try {
        view = await api.showRestore()
      } catch (error) {
        if (!(error instanceof ApiError)) throw error
        // While it starts anew nobody answers, or one that does not know us.
        if (error.status === 401 || error.status === 403) return await comeBack()
        if (stage.value === 'unpacking' && !error.away) throw error
        stage.value = 'starting'
      }
      if (view?.stage === 'failed') return fail(new Error(view.error))
      if (view?.stage === 'idle') return await comeBack()
      if (view) {
        stage.value = view.stage === 'starting' ? 'starting' : 'unpacking'
        done.value = view.done
        total.value = view.total
      }
    }
  }

  async function comeBack(): Promise<void> {
    const view = await whoAmI()
    signInAnew.value = !view.signed_in
    stage.value = 'over'
  }

  return { stage, done, total, sealed, problem, signInAnew, send, reset, begin }
})
