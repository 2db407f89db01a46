/** The tools that the steps of a run have used, as AI agents tell it in their output. */

import type { StepView } from '@/api/steps'

export interface ToolCall {
  tool: string
  ok: boolean
  error: string
  /** Its run; empty if it has none. */
  run: string
  /** With which arguments. */
  told: string
}

interface Told {
  tool?: unknown
  arguments?: unknown
  ok?: unknown
  error?: unknown
  run?: unknown
}

export function callsOf(steps: readonly StepView[]): ToolCall[] {
  return steps.flatMap(({ output }) => {
    const calls = (output as { calls?: unknown } | null | undefined)?.calls
    return Array.isArray(calls) ? (calls as Told[]).filter((call) => typeof call?.tool === 'string').map(callOf) : []
  })
}

function callOf({ tool, arguments: given, ok, error, run }: Told): ToolCall {
  const text = given === undefined || JSON.stringify(given) === '{}' ? '' : JSON.stringify(given)
  return { tool: String(tool), ok: ok === true, error: typeof error === 'string' ? error : '', run: typeof run === 'string' ? run : '', told: text }
}
