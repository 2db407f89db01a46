/** What runs are doing right now, for as long as it is worth showing: fed from live events, forgets by itself. */

import type { Activity } from './shapes'

/** How long an edge that was just passed flows, and how long a result stays marked, in milliseconds. */
export const FLOWS_FOR = 900
export const MARKED_FOR = 6000

export interface StepNews {
  node: string
  kind: string
  port?: string
}

interface Mark {
  state: Activity
  until: number
  count: number
}

export class ActivityLog {
  private readonly marks = new Map<string, Mark>()
  private readonly flowing = new Map<string, number>()

  /** One line of a live event; `now` in milliseconds. */
  tell(news: StepNews, now: number): void {
    const mark = this.marks.get(news.node) ?? { state: '' as Activity, until: 0, count: 0 }
    this.marks.set(news.node, mark)
    switch (news.kind) {
      case 'started':
      case 'intent':
      case 'woken':
        Object.assign(mark, { state: 'running', until: Infinity })
        break
      case 'parked':
      case 'spawned':
      case 'unverified':
      case 'retry':
        Object.assign(mark, { state: 'waiting', until: Infinity })
        break
      case 'failed':
        Object.assign(mark, { state: 'failed', until: now + MARKED_FOR })
        break
      default:
        mark.count++
        Object.assign(mark, { state: news.port === 'error' ? 'failed' : 'done', until: now + MARKED_FOR })
        this.flowing.set(flowKey(news.node, news.port || 'out'), now + FLOWS_FOR)
    }
  }

  /** A run has ended: nothing of it goes on. */
  end(now: number): void {
    for (const mark of this.marks.values()) {
      if (mark.until === Infinity) Object.assign(mark, { state: 'done', until: now + MARKED_FOR })
    }
  }

  stateOf(node: string, now: number): Activity {
    const mark = this.marks.get(node)
    return mark && mark.until > now ? mark.state : ''
  }

  /** How many steps of the node were finished since the canvas was opened. */
  countOf(node: string): number {
    return this.marks.get(node)?.count ?? 0
  }

  flows(node: string, port: string, now: number): boolean {
    return (this.flowing.get(flowKey(node, port)) ?? 0) > now
  }

  /** Whether a picture drawn now would look otherwise in the next frame. */
  moving(now: number): boolean {
    for (const until of this.flowing.values()) if (until > now) return true
    for (const mark of this.marks.values()) if (mark.state === 'running' && mark.until > now) return true
    return false
  }

  /** When the next mark fades, so that it is drawn once more then; null if none will. */
  nextFade(now: number): number | null {
    let next = Infinity
    for (const mark of this.marks.values()) if (mark.until > now) next = Math.min(next, mark.until)
    return next === Infinity ? null : next
  }

  clear(): void {
    this.marks.clear()
    this.flowing.clear()
  }
}

function flowKey(node: string, port: string): string {
  return `${node}\n${port}`
}
