/** Doing one thing with many runs: a few at a time, so that one sees how far it is and can stop it. */

import type { BulkFailure, BulkResult } from '@/api/runs'

/** Runs that the engine is asked to take at once. */
export const AT_ONCE = 25

export interface Progress {
  total: number
  done: string[]
  made: string[]
  failed: BulkFailure[]
  stopped: boolean
}

/** Do `work` with all of them; `told` hears after each part. Rejects with what `work` rejects with. */
export async function inParts(
  runs: readonly string[],
  work: (part: readonly string[]) => Promise<BulkResult>,
  told: (progress: Progress) => void,
  isStopped: () => boolean,
): Promise<Progress> {
  const progress: Progress = { total: runs.length, done: [], made: [], failed: [], stopped: false }
  for (let at = 0; at < runs.length; at += AT_ONCE) {
    if (isStopped()) {
      progress.stopped = true
      break
    }
    const result = await work(runs.slice(at, at + AT_ONCE))
    progress.done.push(...result.done)
    progress.made.push(...result.made)
    progress.failed.push(...result.failed)
    told({ ...progress })
  }
  return progress
}
