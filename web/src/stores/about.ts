/** What the engine is made of. It changes only when another version is installed. */

import { defineStore } from 'pinia'
import { showAbout } from '@/api/about'
import { useLoaded } from '@/lib/loaded'

export const useAbout = defineStore('about', () => useLoaded(showAbout))
