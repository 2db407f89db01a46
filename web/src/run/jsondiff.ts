/** Where two JSON values differ, as a tree and as lines to read. */

export type Op = 'same' | 'added' | 'removed' | 'changed'

export interface DiffNode {
  /** Its name in the object around it, its place in the list, or nothing at the top. */
  key: string | number | null
  op: Op
  left?: unknown
  right?: unknown
  /** Of objects and lists of which both sides have one. */
  kind: 'object' | 'array' | 'value'
  children: readonly DiffNode[]
}

/** Lists longer than this are compared place by place: aligning them would take too long. */
const ALIGN_UP_TO = 400
const DEEPEST = 60

export function jsonDiff(left: unknown, right: unknown, key: string | number | null = null, depth = 0): DiffNode {
  if (same(left, right)) return { key, op: 'same', left, right, kind: kindOf(left), children: [] }
  const kind = kindOf(left)
  if (kind === 'value' || kind !== kindOf(right) || depth >= DEEPEST) {
    return { key, op: 'changed', left, right, kind: 'value', children: [] }
  }
  const children =
    kind === 'object'
      ? objectDiff(left as Record<string, unknown>, right as Record<string, unknown>, depth)
      : listDiff(left as unknown[], right as unknown[], depth)
  return { key, op: 'changed', left, right, kind, children }
}

function kindOf(value: unknown): DiffNode['kind'] {
  if (Array.isArray(value)) return 'array'
  return value !== null && typeof value === 'object' ? 'object' : 'value'
}

/** Whether two JSON values are the same; the order of an object's names does not count. */
export function same(left: unknown, right: unknown): boolean {
  if (Object.is(left, right)) return true
  const kind = kindOf(left)
  if (kind !== kindOf(right) || kind === 'value') return false
  if (kind === 'array') {
    const [a, b] = [left as unknown[], right as unknown[]]
    return a.length === b.length && a.every((item, index) => same(item, b[index]))
  }
  const [a, b] = [left as Record<string, unknown>, right as Record<string, unknown>]
  const names = Object.keys(a)
  return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && same(a[name], b[name]))
}

function objectDiff(left: Record<string, unknown>, right: Record<string, unknown>, depth: number): DiffNode[] {
  const names = [...Object.keys(left), ...Object.keys(right).filter((name) => !Object.hasOwn(left, name))]
  return names.map((name) => {
    if (!Object.hasOwn(right, name)) return gone(name, left[name])
    if (!Object.hasOwn(left, name)) return come(name, right[name])
    return jsonDiff(left[name], right[name], name, depth + 1)
  })
}

const gone = (key: string | number, left: unknown): DiffNode => ({ key, op: 'removed', left, kind: 'value', children: [] })
const come = (key: string | number, right: unknown): DiffNode => ({ key, op: 'added', right, kind: 'value', children: [] })

function listDiff(left: readonly unknown[], right: readonly unknown[], depth: number): DiffNode[] {
  const found: DiffNode[] = []
  let [i, j] = [0, 0]
  const upTo = (endLeft: number, endRight: number): void => {
    while (i < endLeft && j < endRight) found.push(jsonDiff(left[i++], right[j], j++, depth + 1))
    while (i < endLeft) found.push(gone(i, left[i++]))
    while (j < endRight) found.push(come(j, right[j++]))
  }
  for (const [a, b] of aligned(left, right)) {
    upTo(a, b)
    found.push({ key: j, op: 'same', left: left[i++], right: right[j++], kind: kindOf(right[b]), children: [] })
  }
  upTo(left.length, right.length)
  return found
}

/** The longest list of pairs of places at which both have the same. */
function aligned(left: readonly unknown[], right: readonly unknown[]): [number, number][] {
  if (left.length > ALIGN_UP_TO || right.length > ALIGN_UP_TO) return []
  const ours = left.map(canonical)
  const theirs = right.map(canonical)
  const wide = right.length + 1
  const longest = new Uint16Array((left.length + 1) * wide)
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      longest[i * wide + j] =
        ours[i] === theirs[j] ? longest[(i + 1) * wide + j + 1]! + 1 : Math.max(longest[(i + 1) * wide + j]!, longest[i * wide + j + 1]!)
    }
  }
  const pairs: [number, number][] = []
  for (let i = 0, j = 0; i < left.length && j < right.length; ) {
    if (ours[i] === theirs[j]) pairs.push([i++, j++])
    else if (longest[(i + 1) * wide + j]! >= longest[i * wide + j + 1]!) i++
    else j++
  }
  return pairs
}

/** A text that is the same for the same JSON value. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    inner !== null && typeof inner === 'object' && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
      : inner,
  ) ?? 'undefined'
}

export interface DiffLine {
  op: Op | 'gap'
  depth: number
  text: string
}

/** How many lines that are the same are shown around a difference. */
const CONTEXT = 2

/** The difference as the lines of indented JSON, with what is the same left out but for some lines around. */
export function diffLines(left: unknown, right: unknown, whole = false): DiffLine[] {
  const lines: DiffLine[] = []
  write(jsonDiff(left, right), 0, '', lines)
  return whole ? lines : shortened(lines)
}

function write(node: DiffNode, depth: number, comma: string, lines: DiffLine[]): void {
  const name = typeof node.key === 'string' ? `${JSON.stringify(node.key)}: ` : ''
  if (node.op === 'same') return put(node.right, 'same', name, depth, comma, lines)
  if (node.op === 'added') return put(node.right, 'added', name, depth, comma, lines)
  if (node.op === 'removed') return put(node.left, 'removed', name, depth, comma, lines)
  if (node.kind === 'value') {
    put(node.left, 'removed', name, depth, comma, lines)
    return put(node.right, 'added', name, depth, comma, lines)
  }
  const [open, close] = node.kind === 'object' ? '{}' : '[]'
  lines.push({ op: 'same', depth, text: name + open })
  node.children.forEach((child, index) => write(child, depth + 1, index < node.children.length - 1 ? ',' : '', lines))
  lines.push({ op: 'same', depth, text: close + comma })
}

function put(value: unknown, op: Op, name: string, depth: number, comma: string, lines: DiffLine[]): void {
  const text = value === undefined ? 'nothing' : JSON.stringify(value, null, 2)
  const parts = text.split('\n')
  parts.forEach((part, index) => {
    const indent = part.length - part.trimStart().length
    const ending = index === parts.length - 1 ? comma : ''
    lines.push({ op, depth: depth + indent / 2, text: (index ? '' : name) + part.trimStart() + ending })
  })
}

function shortened(lines: readonly DiffLine[]): DiffLine[] {
  const near = new Uint8Array(lines.length)
  lines.forEach((line, index) => {
    if (line.op !== 'same') near.fill(1, Math.max(0, index - CONTEXT), Math.min(lines.length, index + CONTEXT + 1))
  })
  const found: DiffLine[] = []
  let hidden = 0
  const fold = (): void => {
    if (hidden) found.push({ op: 'gap', depth: 0, text: hidden === 1 ? '1 line is the same' : `${hidden} lines are the same` })
    hidden = 0
  }
  lines.forEach((line, index) => {
    if (!near[index]) return void hidden++
    fold()
    found.push(line)
  })
  fold()
  return found
}
