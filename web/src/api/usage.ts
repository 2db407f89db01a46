/** What was used of models: by flow, step, model and day. */

import { get } from './client'

export type UsageBy = 'day' | 'flow' | 'node' | 'model'

export interface UsageSum {
  day: string
  flow: string
  node: string
  model: string
  calls: number
  /** Answers that were known. */
  known: number
  failed: number
  tokens_in: number
  tokens_cached: number
  tokens_out: number
  /** US dollars. */
  cost: number
  /** Tokens whose price nobody knows. */
  unpriced: number
  seconds: number
}

export interface Usage {
  today: string
  items: UsageSum[]
  total: UsageSum
  budgets: { setting: string; bound: number; spent: number; held: number }[]
}

export const showUsage = (
  filter: { workspace?: string; days?: number; flow?: string; by?: readonly UsageBy[] },
  signal?: AbortSignal,
): Promise<Usage> => get('/usage', { ...filter }, signal)
