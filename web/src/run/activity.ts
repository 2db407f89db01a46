/** What a run was doing at a moment, in the words of the canvas. */

import { ActivityLog } from '@/canvas/activity'
import type { Activity } from '@/canvas/shapes'
import type { Phase, Picture } from './timeline'

const LOOKS: Record<Phase, Activity> = {
  pending: '',
  running: 'running',
  retrying: 'waiting',
  waiting: 'waiting',
  unverified: 'waiting',
  done: 'done',
  kept: 'done',
  failed: 'failed',
  caught: 'failed',
  skipped: '',
  stopped: '',
}

export function activityOf(phase: Phase | undefined): Activity {
  return phase ? LOOKS[phase] : ''
}

/** Stands still: it shows one moment of a run rather than what goes on. */
export class RunActivity extends ActivityLog {
  picture: Picture = { nodes: new Map(), edges: [] }

  override stateOf(node: string): Activity {
    return activityOf(this.picture.nodes.get(node))
  }

  override flows(): boolean {
    return false
  }

  override moving(): boolean {
    return false
  }

  override nextFade(): null {
    return null
  }
}
