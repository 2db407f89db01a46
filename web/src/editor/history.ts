/** Undo and redo of everything: past and future values, with the small steps of one thought merged into one. */

export interface Entry<T> {
  value: T
  /** What led to it, in words, such as “Move 3 nodes”. */
  label: string
}

const MOST = 200

export class History<T> {
  private past: Entry<T>[] = []
  private future: Entry<T>[] = []
  private mergeKey = ''
  private mergeUntil = 0
  private now: Entry<T>

  constructor(
    value: T,
    private readonly clock: () => number = () => performance.now(),
    private readonly mergeFor = 1500,
  ) {
    this.now = { value, label: '' }
  }

  get value(): T {
    return this.now.value
  }

  get undoLabel(): string | null {
    return this.past.length ? this.now.label : null
  }

  get redoLabel(): string | null {
    return this.future.at(-1)?.label ?? null
  }

  /** A change. Changes with the same key (typing in one field) that follow each other closely are one. */
  commit(value: T, label: string, mergeKey = ''): void {
    if (value === this.now.value) return
    const at = this.clock()
    const merges = mergeKey !== '' && mergeKey === this.mergeKey && at < this.mergeUntil && this.past.length > 0
    if (!merges) {
      this.past.push(this.now)
      if (this.past.length > MOST) this.past.shift()
    }
    this.now = { value, label }
    this.future = []
    this.mergeKey = mergeKey
    this.mergeUntil = at + this.mergeFor
  }

  undo(): boolean {
    return this.step(this.past, this.future)
  }

  redo(): boolean {
    return this.step(this.future, this.past)
  }

  private step(from: Entry<T>[], to: Entry<T>[]): boolean {
    const entry = from.pop()
    if (!entry) return false
    to.push(this.now)
    this.now = entry
    this.mergeKey = ''
    return true
  }

  /** The next change begins a step of its own. */
  seal(): void {
    this.mergeKey = ''
  }

  /** Another value with no way back: another flow was loaded. */
  reset(value: T): void {
    this.past = []
    this.future = []
    this.mergeKey = ''
    this.now = { value, label: '' }
  }
}
