/** Dead letters: runs that failed for good, until somebody replays or discards them. */

import { get, post, seg, type Page } from './client'
import type { BulkResult, LetterState, ReplayFrom, RunStory, RunView } from './runs'

export interface LetterFilter {
  workspace?: string
  flow?: readonly string[]
  letter?: Exclude<LetterState, 'none'>
  cursor?: string
  limit?: number
}

export const listLetters = (filter: LetterFilter = {}, signal?: AbortSignal): Promise<Page<RunView>> =>
  get('/dead-letters', { ...filter }, signal)

export const showLetter = (run: string, signal?: AbortSignal): Promise<RunStory> =>
  get(`/dead-letters/${seg(run)}`, {}, signal)

export const replayLetter = (run: string, how: ReplayFrom = {}, key?: string): Promise<{ run: string }> =>
  post(`/dead-letters/${seg(run)}/replay`, how, { key })

export const discardLetter = (run: string, reason: string): Promise<void> =>
  post(`/dead-letters/${seg(run)}/discard`, { reason })

export const bulkLetters = (
  action: 'replay' | 'discard',
  runs: readonly string[],
  how: { reason?: string; version?: 'same' | 'live' } = {},
): Promise<BulkResult> => post('/dead-letters/bulk', { action, runs, ...how })
