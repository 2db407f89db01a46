/** Asking a model once: its words as they come, how fast they do, and the whole answer. Leaving ends the work. */

import { onScopeDispose, ref, shallowRef, type Ref, type ShallowRef } from 'vue'
import { ApiError } from '@/api/client'
import { listenToModel, type ChatReply, type Question } from '@/api/questions'

export interface Asking {
  /** What was said so far; it stays when the answer is stopped or breaks off. */
  words: Ref<string>
  /** Pieces (about one token each) a second since the first; 0 while that cannot be told. */
  pace: Ref<number>
  busy: Ref<boolean>
  stopped: Ref<boolean>
  reply: ShallowRef<ChatReply | null>
  error: Ref<string>
  ask: (question: Question) => Promise<void>
  stop: () => void
}

const BROKE_OFF = 'The answer broke off: the connection to the engine was cut.'

/** `clock` gives milliseconds. */
export function useAsking(clock: () => number = () => performance.now()): Asking {
  const words = ref('')
  const pace = ref(0)
  const busy = ref(false)
  const stopped = ref(false)
  const reply = shallowRef<ChatReply | null>(null)
  const error = ref('')
  let asking: AbortController | null = null

  function begin(): AbortController {
    asking?.abort()
    words.value = error.value = ''
    pace.value = 0
    stopped.value = false
    reply.value = null
    busy.value = true
    return (asking = new AbortController())
  }

  async function listen(question: Question, signal: AbortSignal): Promise<void> {
    let pieces = 0
    let first = 0
    for await (const told of listenToModel(question, signal)) {
      if (signal.aborted) return
      if ('text' in told) {
        words.value += told.text
        if (pieces++ === 0) first = clock()
        else pace.value = (1000 * (pieces - 1)) / Math.max(1, clock() - first)
      } else if ('anew' in told) {
        words.value = ''
        pieces = 0
      } else if ('error' in told) throw new ApiError(told.error)
      else {
        reply.value = told.reply
        return
      }
    }
    error.value = BROKE_OFF
  }

  async function ask(question: Question): Promise<void> {
    const mine = begin()
    try {
      await listen(question, mine.signal)
    } catch (problem) {
      if (mine.signal.aborted) return
      if (!(problem instanceof ApiError)) throw problem
      error.value = problem.message
    } finally {
      if (asking === mine) busy.value = false
    }
  }

  function stop(): void {
    stopped.value = busy.value
    busy.value = false
    asking?.abort()
  }

  onScopeDispose(() => asking?.abort())
  return { words, pace, busy, stopped, reply, error, ask, stop }
}
