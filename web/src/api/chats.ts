/** Chats: flows that can be talked to. Each message is a run, and its output the answer. */

import { get, post, seg, type Page } from './client'
import type { RunState } from './flows'

export interface ChatView {
  flow: string
  workspace: string
  trigger: string
  title: string
  about: string
  suggestions: string[]
  /** The least role that may use it. */
  who: string
  may: boolean
}

export interface Conversation {
  chat: string
  /** Its first message. */
  title: string
  by: string
  began: number
  newest: number
  messages: number
}

/** A message and what came of it. */
export interface Exchange {
  run: string
  at: number
  by: string
  text: string
  state: RunState
  answer: string
  error: string
  replay_of: string
}

export interface SentMessage {
  chat: string
  run: string
  state: string
  answer: string
  error: string
  repeated: boolean
  /** False: no kernel runs; it is answered when there is one. */
  kernel: boolean
}

export const listChats = async (workspace: string, signal?: AbortSignal): Promise<ChatView[]> =>
  (await get<Page<ChatView>>('/chats', { workspace }, signal)).items

export const listConversations = async (chat: ChatView, signal?: AbortSignal): Promise<Conversation[]> =>
  (await get<Page<Conversation>>(`/chats/${seg(chat.flow)}/conversations`, { trigger: chat.trigger }, signal)).items

export const showConversation = async (chat: ChatView, id: string, signal?: AbortSignal): Promise<Exchange[]> =>
  (await get<Page<Exchange>>(`/chats/${seg(chat.flow)}/conversations/${seg(id)}`, { trigger: chat.trigger, limit: 200 }, signal)).items

export const sendMessage = (chat: ChatView, text: string, conversation: string, key: string): Promise<SentMessage> =>
  post(`/chats/${seg(chat.flow)}/messages`, { text, trigger: chat.trigger, ...(conversation ? { chat: conversation } : {}) }, { key })
