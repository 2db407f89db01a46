/** Named events, for steps that wait for one. */

import { post } from './client'

export const sendEvent = (
  event: { name: string; payload?: unknown; flow?: string },
  workspace?: string,
  key?: string,
): Promise<{ woken: number }> => post('/events', event, { query: { workspace }, key })
