/** Sending a form: that it is under way, and what the engine minds. */

import { ref, shallowRef, type Ref, type ShallowRef } from 'vue'
import { ApiError, type Problem } from '@/api/client'

export interface Submitting {
  busy: Ref<boolean>
  /** Why it was refused; empty while it was not. */
  refusal: Ref<string>
  /** Its faults by their places. */
  problems: ShallowRef<readonly Problem[]>
  /** Do it; whether the engine took it. Anything but a refusal is thrown. */
  submit: (work: () => Promise<void>) => Promise<boolean>
}

export function useSubmitting(): Submitting {
  const busy = ref(false)
  const refusal = ref('')
  const problems = shallowRef<readonly Problem[]>([])

  async function submit(work: () => Promise<void>): Promise<boolean> {
    busy.value = true
    refusal.value = ''
    problems.value = []
    try {
      await work()
      return true
    } catch (problem) {
      if (!(problem instanceof ApiError)) throw problem
      refusal.value = problem.message
      problems.value = problem.problems
      return false
    } finally {
      busy.value = false
    }
  }

  return { busy, refusal, problems, submit }
}
