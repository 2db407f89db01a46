/** The form of a trigger that is fired by hand: made from the inputs that its flow declares. */

import type { JsonSchema } from '@/lib/schema'

/** As the trigger `manual` declares them (see its schema in the catalog). */
export interface Input {
  name: string
  type?: 'string' | 'number' | 'boolean' | 'choice' | 'text'
  title?: string
  required?: boolean
  default?: unknown
  choices?: string[]
}

const TYPES: Record<NonNullable<Input['type']>, JsonSchema> = {
  string: { type: 'string', 'x-flowork-text': 'plain' },
  number: { type: 'number' },
  boolean: { type: 'boolean' },
  choice: { type: 'string' },
  text: { type: 'string', 'x-flowork-text': 'code' },
}

export const inputsOf = (config: Record<string, unknown>): Input[] => (Array.isArray(config.inputs) ? (config.inputs as Input[]) : [])

export function schemaOf(inputs: readonly Input[]): JsonSchema {
  const properties = Object.fromEntries(
    inputs.map(({ name, type = 'string', title, choices, default: standard }): [string, JsonSchema] => [
      name,
      {
        ...TYPES[type],
        ...(type === 'choice' ? { enum: choices ?? [] } : {}),
        ...(title ? { title } : {}),
        ...(standard === undefined || standard === null ? {} : { default: standard }),
      },
    ]),
  )
  return { type: 'object', properties, required: inputs.filter((input) => input.required).map((input) => input.name) }
}

/** What the engine says of an input (`input.room: is required`) at its field. */
export function problemsOf(message: string): { path: string; message: string }[] {
  const found = /^input\.(\w+): (.*)$/s.exec(message)
  return found ? [{ path: found[1]!, message: found[2]! }] : []
}
