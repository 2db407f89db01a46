/** The one question that can stand: `if (await useConfirm().ask({…})) …`. */

import { defineStore } from 'pinia'
import { shallowRef } from 'vue'

export interface Question {
  title: string
  text: string
  /** What the button does, as a verb: "Delete". */
  yes: string
  no?: string
  danger?: boolean
  /** A word that must be typed, for what hurts most. */
  typed?: string
}

export const useConfirm = defineStore('confirm', () => {
  const question = shallowRef<Question | null>(null)
  let settle: ((yes: boolean) => void) | null = null

  function ask(asked: Question): Promise<boolean> {
    settle?.(false)
    question.value = asked
    return new Promise((resolve) => (settle = resolve))
  }

  function answer(yes: boolean): void {
    question.value = null
    settle?.(yes)
    settle = null
  }

  return { question, ask, answer }
})
