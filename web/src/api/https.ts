/** HTTPS in one's own network, by the engine's own certificate authority. */

import { get, post } from './client'

export type HttpsMode = 'off' | 'on' | 'only'

export interface Https {
  /** `on`: plain http leads browsers to https; `only`: it gives nothing else. */
  mode: HttpsMode
  /** This very panel came by https. */
  here: boolean
  /** Where other devices install the authority, and the same as a picture (a data URI). */
  page: string
  qr: string
  /** Why a certificate could not be made anew; empty if all is well. */
  problem: string
  /** What devices are to trust; null before HTTPS was ever on. */
  authority: { title: string; fingerprint: string; until: number } | null
  certificate: { names: string[]; addresses: string[]; since: number; until: number } | null
}

export const showHttps = (signal?: AbortSignal): Promise<Https> => get('/https', {}, signal)

/** The certificate anew, or with it the authority, which every device must be given then. */
export const renewHttps = (authority: boolean): Promise<Https> => post('/https/renew', { authority })
