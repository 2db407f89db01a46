/** Talking to flows: what can be talked to, the conversations with one, and the one that is open, answered live. */

import { defineStore } from 'pinia'
import { computed, ref, shallowRef } from 'vue'
import * as api from '@/api/chats'
import { ApiError, newKey } from '@/api/client'
import type { LiveRun } from '@/api/live'
import { cancelRun } from '@/api/runs'
import { useFollowed, useLoaded } from '@/lib/loaded'
import { isOpen } from '@/lib/states'
import { heard, type Words } from '@/run/shown'
import { useLive } from './live'
import { useSession } from './session'

export const useChats = defineStore('chats', () => {
  const session = useSession()
  const live = useLive()
  const chat = shallowRef<api.ChatView | null>(null)
  /** The open conversation's id; empty: a new one. */
  const id = ref('')
  const chats = useLoaded((signal) => api.listChats(session.workspace, signal))
  const conversations = useLoaded(async (signal) => (chat.value ? api.listConversations(chat.value, signal) : []))
  const messages = useFollowed(async (signal) => (chat.value && id.value ? api.showConversation(chat.value, id.value, signal) : []), ended)
  /** What runs show while they work: by run, then the words of the step that spoke last. */
  const words = shallowRef<ReadonlyMap<string, Words & { node: string }>>(new Map())
  const failed = ref('')
  const sending = ref(false)
  const items = computed(() => messages.value.value ?? [])
  /** The run whose answer is awaited. */
  const waiting = computed(() => [...items.value].reverse().find((one) => isOpen(one.state))?.run ?? '')

  /** Open a conversation, or begin a new one without an id. */
  async function open(next: api.ChatView, conversation = ''): Promise<void> {
    const other = chat.value?.flow !== next.flow || chat.value.trigger !== next.trigger
    chat.value = next
    id.value = conversation
    failed.value = ''
    words.value = new Map()
    if (other) conversations.value.value = null
    messages.value.value = conversation && !other ? messages.value.value : null
    await Promise.all([conversations.load(), messages.load()])
  }

  async function send(text: string): Promise<boolean> {
    const to = chat.value
    if (to === null || sending.value) return false
    sending.value = true
    failed.value = ''
    try {
      const sent = await api.sendMessage(to, text, id.value, newKey())
      const mine: api.Exchange = { run: sent.run, at: Date.now() / 1000, by: '', text, state: 'queued', answer: '', error: '', replay_of: '' }
      if (!items.value.some((one) => one.run === sent.run)) messages.value.value = [...items.value, mine]
      id.value = sent.chat
      void messages.load()
      if (!sent.kernel) failed.value = 'The engine’s kernel is away: the message is kept, and is answered when it is back.'
      return true
    } catch (problem) {
      if (!(problem instanceof ApiError)) throw problem
      failed.value = problem.message
      return false
    } finally {
      sending.value = false
    }
  }

  async function stop(): Promise<void> {
    if (!waiting.value) return
    try {
      await cancelRun(waiting.value)
    } catch (problem) {
      if (!(problem instanceof ApiError)) throw problem
      failed.value = problem.message
    }
  }

  live.watchTexts((texts) => {
    let next: Map<string, Words & { node: string }> | null = null
    for (const event of texts) {
      // While a question is being sent its run is not known here yet, and may speak already.
      if (!event.run || !event.node || !(sending.value || items.value.some((one) => one.run === event.run))) continue
      next ??= new Map(words.value)
      const before = next.get(event.run)
      next.set(event.run, { ...heard(before?.node === event.node ? before : undefined, event), node: event.node })
    }
    if (next) words.value = next
  })
  /** The answer is known to the engine alone. */
  function ended(shown: api.Exchange[], runs: readonly LiveRun[]): api.Exchange[] {
    const over = new Set(runs.filter((run) => run.finished !== null).map((run) => run.run))
    if (shown.some((one) => isOpen(one.state) && over.has(one.run))) {
      queueMicrotask(() => {
        messages.again()
        conversations.again()
      })
    }
    return shown
  }
  live.watchRuns((runs) => messages.take(runs))
  live.watchReset(() => {
    messages.again()
    conversations.again()
  })

  return { chat, id, chats, conversations, messages, items, words, failed, sending, waiting, open, send, stop }
})
