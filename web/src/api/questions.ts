/** Asking a model once. */

import { get, lines, type ProblemDetails } from './client'

export interface ChoicePlace {
  upstream: string
  /** Who sees the prompt; empty: this machine. */
  place: string
  local: boolean
  breaker: string
  models: { name: string; context: number; images: boolean }[]
  error: string
}

export interface Choices {
  default: string[]
  default_embed: string
  items: ChoicePlace[]
}

export interface ChatReply {
  text: string
  model: string
  provider: string
  finish: string
  tokens_in: number
  tokens_cached: number
  tokens_out: number
  /** Seconds: all of it, and until the first token. */
  seconds: number
  first: number
  /** US dollars. */
  cost: number
  from_cache: boolean
}

export const listChoices = (signal?: AbortSignal): Promise<Choices> => get('/questions/models', {}, signal)

export interface Question {
  messages: { role: string; content: string }[]
  models?: string[]
  temperature?: number
  max_tokens?: number
}

/** A piece of the answer; or it begins again, since another model is asked now; or all of it; or why it broke off. */
export type Told = { text: string } | { anew: true } | { reply: ChatReply } | { error: ProblemDetails }

/** Ask a model once, and hear its answer while it is made. Giving up ends the work. */
export const listenToModel = (question: Question, signal: AbortSignal): AsyncGenerator<Told> => lines('/questions/stream', question, signal)
