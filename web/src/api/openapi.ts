/** What this engine can do: the API's own description. */

import { get } from './client'

export interface OpenApi {
  info: { version: string }
  paths: Record<string, Record<string, Operation>>
}

export interface Operation {
  summary: string
  /** What one must have to call it; public ones lack it. */
  'x-flowork-needs'?: { permission: string; role: string; scope: string; engine: boolean }
}

export const showOpenApi = (signal?: AbortSignal): Promise<OpenApi> => get('/openapi.json', {}, signal)
