/** JSON Schema (draft 2020-12) as far as the engine makes it: of configs, settings and inputs. */

export interface JsonSchema {
  $ref?: string
  $defs?: Record<string, JsonSchema>
  title?: string
  description?: string
  type?: string | string[]
  enum?: unknown[]
  const?: unknown
  anyOf?: JsonSchema[]
  oneOf?: JsonSchema[]
  properties?: Record<string, JsonSchema>
  required?: string[]
  additionalProperties?: boolean | JsonSchema
  items?: JsonSchema
  minItems?: number
  maxItems?: number
  minLength?: number
  maxLength?: number
  minimum?: number
  maximum?: number
  exclusiveMinimum?: number
  exclusiveMaximum?: number
  pattern?: string
  format?: string
  default?: unknown
  examples?: unknown[]
  /** What a text means to the engine: `duration`, `template`, `expression` … */
  'x-flowork-text'?: string
  'x-flowork-unit'?: string
  [key: string]: unknown
}

/** The schema behind a `$ref`, with what stands beside it. */
export function resolved(schema: JsonSchema, root: JsonSchema): JsonSchema {
  let found = schema
  for (let depth = 0; found.$ref !== undefined && depth < 20; depth++) {
    const { $ref, ...beside } = found
    const target = $ref.replace(/^#\/\$defs\//, '')
    found = { ...(root.$defs?.[target] ?? {}), ...beside }
  }
  return found
}

/** Whether `null` is allowed, and the schema of all else. */
export function withoutNull(schema: JsonSchema): { schema: JsonSchema; nullable: boolean } {
  const { anyOf, ...beside } = schema
  if (anyOf === undefined) return { schema, nullable: schema.type === 'null' }
  const rest = anyOf.filter((one) => one.type !== 'null')
  const nullable = rest.length < anyOf.length
  if (rest.length !== 1) return { schema: { ...schema, anyOf: rest }, nullable }
  return { schema: { ...rest[0], ...beside }, nullable }
}

/** A label for a property: its title, else its name in words. */
export function labelOf(name: string, schema: JsonSchema): string {
  if (schema.title && !/^[A-Z]\w+Config$/.test(schema.title)) return schema.title
  const words = name.replace(/_/g, ' ')
  return words.charAt(0).toUpperCase() + words.slice(1)
}
