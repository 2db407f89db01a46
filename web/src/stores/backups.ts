/** Backups: those that are kept, and making one. While one is made it is asked for anew. */

import { defineStore } from 'pinia'
import { onScopeDispose } from 'vue'
import * as api from '@/api/backups'
import { useLoaded } from '@/lib/loaded'

/** Milliseconds between two looks while one is made. */
const ROUND = 1500

export const useBackups = defineStore('backups', () => {
  const { value, loading, error, load: once } = useLoaded(api.listBackups)
  let again: ReturnType<typeof setTimeout> | undefined
  let watched = 0

  async function load(): Promise<void> {
    clearTimeout(again)
    await once()
    if (watched > 0 && value.value?.running) again = setTimeout(() => void load(), ROUND)
  }

  /** Keep the list up to date until the caller's scope ends. */
  function watch(): void {
    watched++
    void load()
    onScopeDispose(() => {
      if (--watched === 0) clearTimeout(again)
    })
  }

  async function begin(): Promise<void> {
    await api.beginBackup()
    // The kernel's word on itself is a second old at most.
    if (value.value) value.value = { ...value.value, running: true }
    clearTimeout(again)
    again = setTimeout(() => void load(), ROUND)
  }

  async function makeKey(): Promise<{ public: string; private: string }> {
    const made = await api.makeBackupKey()
    void load()
    return made
  }

  return { value, loading, error, load, watch, begin, makeKey, check: api.checkBackup }
})
