/** The editor of one flow: what the engine knows of it, checking, saving, and the data of past runs. */

import { shallowRef, type ShallowRef } from 'vue'
import { ActivityLog } from '@/canvas/activity'
import type { Backend, Collision, FlowState, RunData, VersionInfo } from './backend'
import { NOTHING_KNOWN, type Known } from './completion'
import { Drawing } from './drawing'
import type { FlowDoc, FlowNode } from './flowdoc'
import { History } from './history'
import { located, type Fault } from './problems'
import type { Kinds } from './sceneof'

export type { Panel, Preview } from './board'

const CHECK_AFTER = 350

export class Editor extends Drawing {
  readonly flow: ShallowRef<FlowState | null> = shallowRef(null)
  readonly checking = shallowRef(false)
  readonly collision: ShallowRef<Collision | null> = shallowRef(null)
  readonly busy = shallowRef('')
  /** The past run whose data forms and tests show. */
  readonly sample: ShallowRef<RunData | null> = shallowRef(null)
  readonly vars: ShallowRef<Record<string, unknown>> = shallowRef({})
  readonly secrets: ShallowRef<readonly string[]> = shallowRef([])
  readonly activity = new ActivityLog()
  /** What still waits for a pause in somebody's typing; done before the flow is saved or compared. */
  readonly pending = new Set<() => void>()

  private timer: ReturnType<typeof setTimeout> | undefined
  private asked = 0
  private ended = false

  constructor(
    readonly backend: Backend,
    mayEdit: () => boolean = () => true,
  ) {
    super(mayEdit)
  }

  // --- loading and ending --------------------------------------------------------------------------

  async open(kinds: Kinds): Promise<void> {
    this.kinds.value = kinds
    this.take(await this.backend.load())
    void this.loadSample()
    void this.backend.names().then((names) => {
      this.vars.value = names.vars
      this.secrets.value = names.secrets
    }, ignored)
  }

  /** The engine's flow in place of what is here; there is no way back behind it. */
  take(flow: FlowState): void {
    this.flow.value = flow
    this.homes.clear()
    this.history = new History<FlowDoc>(flow.flow)
    this.saved.value = flow.flow
    this.clearPicked()
    this.path.value = []
    this.shownNow()
  }

  override close(): void {
    this.ended = true
    clearTimeout(this.timer)
    super.close()
  }

  // --- checking ------------------------------------------------------------------------------------

  protected override checkSoon(): void {
    clearTimeout(this.timer)
    if (this.ended) return
    this.checking.value = true
    this.timer = setTimeout(() => void this.check(), CHECK_AFTER)
  }

  /** Have the engine look at the flow as it is. */
  async check(): Promise<void> {
    clearTimeout(this.timer)
    const mine = ++this.asked
    const doc = this.doc.value
    try {
      const checked = await this.backend.check(doc)
      if (mine !== this.asked || this.ended) return
      this.faults.value = checked.problems.map((problem) => located(doc, problem))
      this.traits.value = new Map([...this.traits.value, ...Object.entries(checked.nodes)])
    } catch {
      // The engine is away, or says no: the page shows its connection; what was found before stays.
    } finally {
      if (mine === this.asked) this.checking.value = false
    }
  }

  effectOf(node: FlowNode): string {
    const name = [...this.path.value, node.id].join('/')
    return this.traits.value.get(name)?.effect ?? this.kinds.value.nodes.get(node.type)?.effect ?? 'once'
  }

  /** Hosts that see what a node works on. */
  sendsTo(node: FlowNode): readonly string[] {
    return this.traits.value.get([...this.path.value, node.id].join('/'))?.sends_to ?? []
  }

  /** Go to the place of a fault. */
  visit(fault: Fault): void {
    this.go(fault.graph)
    if (fault.edge >= 0) this.openEdge(fault.edge)
    else if (fault.shape) this.openConfig(fault.shape, fault.field)
    else {
      this.clearPicked()
      this.field.value = fault.field
      this.panel.value = 'flow'
    }
  }

  // --- saving --------------------------------------------------------------------------------------

  /** Take over what was typed and not taken over yet. */
  settle(): void {
    for (const work of this.pending) work()
  }

  /** Save as a new version, with faults as a draft. True if it was saved. */
  async save(message = '', deploy = false): Promise<boolean> {
    this.settle()
    const flow = this.flow.value
    if (!flow || this.busy.value) return false
    this.busy.value = deploy ? 'Deploying …' : 'Saving …'
    const doc = this.doc.value
    try {
      const result = await this.backend.save(doc, flow.newest, { message, draft: !deploy && this.faults.value.length > 0, deploy })
      if ('collision' in result) {
        this.collision.value = result.collision
        return false
      }
      if ('problems' in result) {
        this.faults.value = result.problems.map((problem) => located(doc, problem))
        if (!deploy) return await this.saveDraft(doc, flow.newest, message)
        this.panel.value = 'problems'
        return false
      }
      this.kept(result.saved, doc)
      return true
    } finally {
      this.busy.value = ''
    }
  }

  /** The engine found faults that were not known yet: they are no reason to lose work. */
  private async saveDraft(doc: FlowDoc, base: number, message: string): Promise<boolean> {
    const result = await this.backend.save(doc, base, { message, draft: true, deploy: false })
    if ('collision' in result) this.collision.value = result.collision
    if (!('saved' in result)) return false
    this.kept(result.saved, doc)
    return true
  }

  private kept(saved: FlowState, sent: FlowDoc): void {
    this.flow.value = saved
    const filled = JSON.stringify(saved.flow) !== JSON.stringify(sent)
    if (filled && this.doc.value === sent) {
      // The engine has added something, such as a webhook's path.
      this.history.commit(saved.flow, 'Save')
      this.saved.value = saved.flow
      this.shownNow()
    } else this.saved.value = sent
  }

  /** After a collision: what is here becomes the newest version, on top of the other one. */
  async keepMine(message: string): Promise<boolean> {
    const newest = this.collision.value?.newest?.number
    const flow = this.flow.value
    if (newest === undefined || !flow) return false
    this.flow.value = { ...flow, newest }
    this.collision.value = null
    return this.save(message)
  }

  /** After a collision: the other version, and what was here can be had back by undoing. */
  async takeTheirs(): Promise<void> {
    const theirs = await this.backend.load()
    this.collision.value = null
    this.flow.value = theirs
    this.history.commit(theirs.flow, 'Take the other version')
    this.saved.value = theirs.flow
    this.shownNow()
  }

  async rollback(version: VersionInfo): Promise<void> {
    const flow = await this.backend.rollback(version.number)
    this.flow.value = { ...flow, flow: this.flow.value?.flow ?? flow.flow }
  }

  /** Go on with another flow, such as an older version: it becomes what is edited, and a new version once it is saved. */
  restore(doc: FlowDoc, label: string): void {
    this.preview.value = null
    this.homes.clear()
    this.change(label, () => doc)
  }

  // --- data of past runs ---------------------------------------------------------------------------

  async loadSample(id?: string): Promise<void> {
    try {
      const wanted = id ?? (await this.backend.runs())[0]?.id
      if (wanted !== undefined && !this.ended) this.sample.value = await this.backend.run(wanted)
    } catch {
      // Without a past run fields are only not filled with examples.
    }
  }

  /** What templates of a node could read, as far as the run that is looked at shows it. */
  known(node: FlowNode | null, behind = false): Known {
    const run = this.sample.value
    const base = { ...NOTHING_KNOWN, vars: this.vars.value, secrets: this.secrets.value }
    if (!run) return base
    const steps: Record<string, unknown> = {}
    for (const step of run.steps) if (step.output !== undefined) steps[step.node] = step.output
    return { ...base, event: run.event, steps, payload: node ? this.inputOf(node.id, behind) : run.payload }
  }

  /** What a node worked on in that run; for a new one, what the node before it gave. */
  inputOf(id: string, behind = false): unknown {
    const step = this.sample.value?.steps.find((one) => one.node === id)
    if (step) return behind ? step.output : step.input
    const source = this.sourceOf(id)
    return source === null ? this.sample.value?.payload : this.sample.value?.steps.find((one) => one.node === source)?.output
  }

  /** Where an expression of a node can be evaluated: at its own step, or behind the one before it if it is new. */
  spotOf(id: string, behind = false): { node: string; behind: boolean } | null {
    const steps = this.sample.value?.steps ?? []
    if (steps.some((one) => one.node === id)) return { node: id, behind }
    const source = this.sourceOf(id)
    if (source !== null && steps.some((one) => one.node === source)) return { node: source, behind: true }
    return null
  }

  private sourceOf(id: string): string | null {
    return (this.graph.edges ?? []).find((edge) => edge.to === id)?.from ?? null
  }
}

const ignored = (): void => undefined
