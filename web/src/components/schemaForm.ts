/** What a SchemaForm tells the fields in it. */

import type { Component, ComputedRef, InjectionKey } from 'vue'
import type { Problem } from '@/api/client'
import type { JsonSchema } from '@/lib/schema'

export interface SchemaContext {
  /** Where `$ref`s point into. */
  root: ComputedRef<JsonSchema>
  problems: ComputedRef<readonly Problem[]>
  text: ComputedRef<Component | undefined>
  disabled: ComputedRef<boolean>
}

export const SCHEMA: InjectionKey<SchemaContext> = Symbol('schema form')

export type FieldKind = 'enum' | 'boolean' | 'number' | 'text' | 'lines' | 'list' | 'object' | 'map' | 'json'

/** How a value of this schema is edited. */
export function kindOf(schema: JsonSchema, resolve: (schema: JsonSchema) => JsonSchema): FieldKind {
  if (schema.enum) return 'enum'
  if (schema['x-flowork-text'] === 'graph') return 'json'
  if (schema['x-flowork-text'] === 'duration') return 'text'
  const variants = (schema.anyOf ?? schema.oneOf)?.map(resolve)
  if (variants) {
    const kinds = new Set(variants.map((one) => kindOf(one, resolve)))
    // "A topic, or a list of them" is a list of lines; "a number or a text" is a text.
    if (kinds.size === 2 && kinds.has('text') && kinds.has('lines')) return 'lines'
    if (kinds.size === 2 && kinds.has('text') && kinds.has('number')) return 'text'
    return kinds.size === 1 && kinds.has('text') ? 'text' : 'json'
  }
  if (schema.type === 'boolean') return 'boolean'
  if (schema.type === 'integer' || schema.type === 'number') return 'number'
  if (schema.type === 'string') return 'text'
  if (schema.type === 'array') {
    const item = kindOf(resolve(schema.items ?? {}), resolve)
    return item === 'text' ? 'lines' : item === 'object' ? 'list' : 'json'
  }
  if (schema.type === 'object') {
    if (schema.properties) return 'object'
    const value = typeof schema.additionalProperties === 'object' ? resolve(schema.additionalProperties) : null
    return value && kindOf(value, resolve) === 'text' ? 'map' : 'json'
  }
  return 'json'
}
