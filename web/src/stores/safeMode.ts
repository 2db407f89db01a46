/** Whether the kernel rests, and the switch for it. */

import { defineStore } from 'pinia'
import * as api from '@/api/safeMode'
import { useLoaded } from '@/lib/loaded'

export const useSafeMode = defineStore('safeMode', () => {
  const { value, load } = useLoaded(api.showSafeMode)

  async function set(on: boolean, reason?: string): Promise<void> {
    value.value = await api.setSafeMode(on, reason)
  }

  return { value, load, set }
})
