/** The form of a manual trigger's inputs, as a JSON Schema that a SchemaForm draws. */

import type { FlowBody } from '@/api/versions'
import type { JsonSchema } from './schema'

/** As a manual trigger declares it. */
export interface Input {
  name: string
  type?: 'string' | 'number' | 'boolean' | 'choice' | 'text'
  title?: string
  required?: boolean
  default?: unknown
  choices?: string[]
}

interface TriggerSpec {
  type?: string
  config?: { inputs?: Input[] }
}

/** The inputs that the flow's manual trigger declares; null if it takes any JSON. */
export function inputsOf(flow: FlowBody): JsonSchema | null {
  const manual = ((flow.triggers ?? []) as TriggerSpec[]).find((trigger) => trigger.type === 'manual')
  return schemaOf(manual?.config?.inputs ?? [])
}

/** The form of these inputs; null if there are none. */
export function schemaOf(inputs: readonly Input[]): JsonSchema | null {
  if (inputs.length === 0) return null
  return {
    type: 'object',
    properties: Object.fromEntries(inputs.map((input) => [input.name, fieldOf(input)])),
    required: inputs.filter((input) => input.required).map((input) => input.name),
  }
}

function fieldOf({ type = 'string', title, default: standard, choices }: Input): JsonSchema {
  const common: JsonSchema = { ...(title ? { title } : {}), ...(standard === undefined ? {} : { default: standard }) }
  if (type === 'choice') return { ...common, enum: choices ?? [] }
  if (type === 'number' || type === 'boolean') return { ...common, type }
  return { ...common, type: 'string', 'x-flowork-text': 'plain', ...(type === 'text' ? { maxLength: 20_000 } : {}) }
}
