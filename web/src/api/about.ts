/** About: what the engine is made of. */

import { get, seg } from './client'

export interface Library {
  name: string
  version: string
  licence: string
  summary: string
  homepage: string
}

export interface About {
  version: string
  engine: string
  address: string
  licence: string
  python: string
  sqlite: string
  system: string
  machine: string
  libraries: Library[]
}

export interface Licence {
  name: string
  licence: string
  text: string
}

export const showAbout = (signal?: AbortSignal): Promise<About> => get('/about', {}, signal)

export const showLicence = (name: string, signal?: AbortSignal): Promise<Licence> =>
  get(`/about/licences/${seg(name)}`, {}, signal)
