/** What this engine can do: the API's own description. */

import { get } from './client'

export interface OpenApi {
  info: { version: string }
  paths: Record<string, Record<string, unknown>>
}

export const showOpenApi = (signal?: AbortSignal): Promise<OpenApi> => get('/openapi.json', {}, signal)
