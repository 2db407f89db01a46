/**
 * The rows of a list of runs: pages from the engine, and what moves live, in one order (newest first).
 *
 * Runs that begin while somebody reads further down, or has a row under the cursor, are held back until they are asked
 * for, so that nothing moves under the reader's eyes. Rows that are shown are always brought up to date.
 */

import type { RunState } from '@/api/flows'
import type { LiveRun } from '@/api/live'
import type { LetterState, RunView } from '@/api/runs'
import { belongs, type Wanted } from './filters'

/** What a list says of a run. */
export type RunRow = RunView

/** So many rows came live that the first page should be asked for anew rather than kept for ever. */
const MOST_LIVE = 2000

export class RunFeed {
  rows: readonly RunRow[] = []
  /** Runs that began meanwhile and are not shown. */
  readonly held = new Map<string, RunRow>()
  /** Something happened of which only the engine can say whether it belongs here. */
  stale = false
  private readonly places = new Map<string, number>()
  private cameLive = 0

  constructor(
    readonly wanted: Wanted,
    private readonly nameOf: (flow: string) => string = (flow) => flow,
  ) {}

  /** A page as the engine gave it: the first one, or the one behind what is there. */
  add(page: readonly RunRow[], first: boolean): void {
    if (first) {
      // What moved while the page was under way is newer than the page says.
      const ended = this.rows.filter((row) => row.finished !== null)
      const known = new Map(ended.map((row) => [row.id, row]))
      this.rows = page.map((row) => (row.finished === null ? (known.get(row.id) ?? row) : row))
      this.held.clear()
      this.stale = false
      this.cameLive = 0
    } else {
      this.rows = [...this.rows, ...page.filter((row) => !this.places.has(row.id))]
    }
    this.index()
  }

  /** Runs that moved. `following`: new ones are shown at once. Returns whether anything that is shown changed. */
  take(events: readonly LiveRun[], following: boolean): boolean {
    const fresh = new Map<string, RunRow>()
    let rows: RunRow[] | null = null
    for (const event of events) {
      const place = this.places.get(event.run)
      if (place !== undefined) {
        rows ??= [...this.rows]
        rows[place] = { ...rows[place]!, ...newsOf(event) }
        continue
      }
      const fits = belongs(event, this.wanted)
      if (fits === 'unknown') this.stale = true
      else if (!fits) this.drop(event.run, fresh)
      else if (!this.isOlder(event)) fresh.set(event.run, this.rowOf(event))
    }
    if (rows) this.rows = rows
    for (const [id, row] of fresh) this.held.set(id, row)
    if (following && this.held.size) return this.release()
    return rows !== null
  }

  /** A run that was held back and belongs here no longer. */
  private drop(run: string, fresh: Map<string, RunRow>): void {
    fresh.delete(run)
    this.held.delete(run)
  }

  /** Ids sort by time: what lies below the last row comes with its page. */
  private isOlder(event: LiveRun): boolean {
    const oldest = this.rows.at(-1)
    return oldest !== undefined && event.run < oldest.id
  }

  /** Show what was held back. */
  release(): boolean {
    if (!this.held.size) return false
    const news = [...this.held.values()].filter((row) => !this.places.has(row.id))
    this.held.clear()
    this.cameLive += news.length
    this.rows = [...news, ...this.rows].sort((a, b) => (a.id < b.id ? 1 : a.id > b.id ? -1 : 0))
    this.index()
    return true
  }

  /** Whether the list has grown so much at the top that it should be loaded anew. */
  get overgrown(): boolean {
    return this.cameLive > MOST_LIVE
  }

  /** Change rows after something was done with them. */
  patch(ids: Iterable<string>, change: Partial<RunRow>): void {
    const rows = [...this.rows]
    for (const id of ids) {
      const place = this.places.get(id)
      if (place !== undefined) rows[place] = { ...rows[place]!, ...change }
    }
    this.rows = rows
  }

  /** Take rows out of the list. */
  remove(ids: Iterable<string>): void {
    const gone = new Set(ids)
    this.rows = this.rows.filter((row) => !gone.has(row.id))
    this.index()
  }

  /** The place of a run in the list, or -1. */
  placeOf(id: string | null): number {
    return id === null ? -1 : (this.places.get(id) ?? -1)
  }

  private index(): void {
    this.places.clear()
    this.rows.forEach((row, place) => this.places.set(row.id, place))
  }

  private rowOf(event: LiveRun): RunRow {
    const text = (name: string): string | null => (typeof event[name] === 'string' ? event[name] : null)
    return {
      id: event.run,
      flow: event.flow,
      flow_name: this.nameOf(event.flow),
      workspace: '',
      version: event.version,
      place: text('place') ?? '',
      trigger: text('trigger') ?? '',
      accepted: event.accepted,
      parent: text('parent'),
      origin: text('origin'),
      ...newsOf(event),
    }
  }
}

function newsOf(event: LiveRun): Pick<RunRow, 'state' | 'finished' | 'took' | 'error' | 'letter'> {
  return {
    state: event.state as RunState,
    finished: event.finished,
    took: event.finished === null ? null : event.finished - event.accepted,
    error: event.error ?? null,
    letter: (event.letter as LetterState | undefined) ?? 'none',
  }
}
