/** What the steps of a run wrote, in the order of time. */

import type { RecordView } from '@/api/runs'
import type { StepView } from '@/api/steps'

export interface LogLine {
  /** Unix seconds. */
  at: number
  level: string
  text: string
  /** The step's id; empty for a line about the run as a whole. */
  node: string
  name: string
}

export function linesOf(steps: readonly StepView[], records: readonly RecordView[] = []): LogLine[] {
  const written = steps.flatMap((step) =>
    (step.logs ?? []).map((line): LogLine => {
      const [at, level, text] = line as [number, string, string]
      return { at, level, text: String(text), node: step.node, name: step.name || step.node }
    }),
  )
  const notes = records
    .filter((record) => record.kind === 'note')
    .map((record): LogLine => ({ at: record.at, level: 'note', text: String(record.value ?? ''), node: '', name: '' }))
  return [...written, ...notes].sort((a, b) => a.at - b.at)
}
