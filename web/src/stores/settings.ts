/** The engine's settings. */

import { defineStore } from 'pinia'
import * as api from '@/api/settings'
import { useLoaded } from '@/lib/loaded'

export const useSettings = defineStore('settings', () => {
  const { value, loading, error, load } = useLoaded(api.showSettings)

  /** Keep new values (all or none), then go back to the default of those in `reset`. */
  async function save(values: Record<string, unknown>, reset: readonly string[]): Promise<void> {
    try {
      if (Object.keys(values).length > 0) value.value = await api.changeSettings(values)
      for (const name of reset) await api.resetSetting(name)
    } finally {
      await load()
    }
  }

  return { value, loading, error, load, save }
})
