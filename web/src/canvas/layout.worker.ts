/** Computes layouts beside the page, so that no frame waits for one. */

import { layout, type LayoutInput } from './layout'

self.onmessage = (message: MessageEvent<{ id: number; input: LayoutInput }>): void => {
  self.postMessage({ id: message.data.id, placed: layout(message.data.input) })
}
