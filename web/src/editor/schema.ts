/** Reading a kind's JSON Schema as far as the editor itself needs it; forms are drawn by `SchemaForm`. */

type Schema = Record<string, unknown>

/** The schema with a `$ref` at its top followed. */
export function resolved(schema: Schema, root: Schema = schema): Schema {
  const ref = schema.$ref
  if (typeof ref !== 'string' || !ref.startsWith('#/$defs/')) return schema
  const found = (root.$defs as Record<string, Schema> | undefined)?.[ref.slice('#/$defs/'.length)]
  return found ?? schema
}

/** What a new node of this kind starts with: nothing but what is required and has an obvious beginning. */
export function startConfig(schema: Schema): Record<string, unknown> {
  const object = resolved(schema)
  const properties = (object.properties ?? {}) as Record<string, Schema>
  const config: Record<string, unknown> = {}
  for (const name of (object.required as string[] | undefined) ?? []) {
    const field = resolved(properties[name] ?? {}, schema)
    const options = field.enum as unknown[] | undefined
    if ('default' in field) config[name] = structuredClone(field.default)
    else if (options?.length) config[name] = options[0]
  }
  return config
}

/** The field that a person sets first: the first required one, else the first one. */
export function firstField(schema: Schema): string | null {
  const object = resolved(schema)
  const required = (object.required as string[] | undefined) ?? []
  return required[0] ?? Object.keys((object.properties ?? {}) as object)[0] ?? null
}
