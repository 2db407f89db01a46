/** The episodic memory: what flows have remembered. */

import { get, request, type Page, type Query } from './client'

export interface Episode {
  id: number
  text: string
  outcome: string
  tags: string[]
  data?: unknown
  /** Who remembered it, in which run. */
  flow: string
  run: string
  time: number
  expires: number | null
  /** How well it fits what was searched for (0 to 1), and what that is made of; `meaning` is null without vectors. */
  score: number
  meaning: number | null
  words: number
  recency: number
}

export interface MemoryView {
  episodes: number
  oldest: number | null
  newest: number | null
  bytes: number
  /** Episodes by the model that embedded them. */
  vectors: Record<string, number>
  outcomes: Record<string, number>
}

export interface WhichEpisodes {
  workspace: string
  flow?: string
  outcome?: string
  tag?: readonly string[]
}

export const showMemory = (workspace: string, signal?: AbortSignal): Promise<MemoryView> => get('/memory', { workspace }, signal)

/** The best fits for `query`, best first; without it the newest, page by page. */
export const listEpisodes = (which: WhichEpisodes & { query?: string; cursor?: string; limit?: number }, signal?: AbortSignal): Promise<Page<Episode>> =>
  get('/memory/episodes', { ...which }, signal)

/** For good. Those with these ids, or all that fits; how many are gone. */
export const forgetEpisodes = async (which: WhichEpisodes & { id?: readonly number[]; all?: boolean }): Promise<number> => {
  const query: Query = { ...which, id: which.id?.map(String) }
  return (await request<{ forgotten: number }>('DELETE', '/memory/episodes', { query })).data.forgotten
}
