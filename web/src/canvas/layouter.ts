/** Asks the worker for layouts. It is started with the first one and ended with `close`. */

import type { LayoutInput, Placed } from './layout'

export class Layouter {
  private worker: Worker | null = null
  private asked = 0
  private readonly waiting = new Map<number, { done: (placed: Placed[]) => void; failed: (error: Error) => void }>()

  layout(input: LayoutInput): Promise<Placed[]> {
    const worker = (this.worker ??= this.start())
    const id = ++this.asked
    return new Promise((done, failed) => {
      this.waiting.set(id, { done, failed })
      worker.postMessage({ id, input })
    })
  }

  private start(): Worker {
    const worker = new Worker(new URL('./layout.worker.ts', import.meta.url), { type: 'module' })
    worker.onmessage = (message: MessageEvent<{ id: number; placed: Placed[] }>): void => {
      this.waiting.get(message.data.id)?.done(message.data.placed)
      this.waiting.delete(message.data.id)
    }
    worker.onerror = (event): void => this.fail(new Error(event.message || 'the layout could not be computed'))
    return worker
  }

  private fail(error: Error): void {
    for (const one of this.waiting.values()) one.failed(error)
    this.waiting.clear()
  }

  close(): void {
    this.worker?.terminate()
    this.worker = null
    this.fail(new Error('closed'))
  }
}
