/** Sending a large file part by part: what is held in memory is one part, and a cut is gone on behind. */

import { ApiError } from '@/api/client'

/** `data` is base64; the part at 0 begins anew. */
export interface Part {
  offset: number
  size: number
  data: string
}

/** Bytes of a part, halved while the engine's setting does not allow so much. */
const PART = 1_000_000
const SMALLEST = 1000
/** Tries to send a part while the engine is out of reach, and milliseconds between them. */
const TRIES = 20
const ROUND = 500

/** Send all of it; what the engine answered to the last part. `tell` is called with the bytes that are there. */
export async function sendInParts<T extends { received: number }>(
  file: Blob,
  put: (part: Part, signal: AbortSignal) => Promise<T>,
  signal: AbortSignal,
  tell: (done: number) => void,
): Promise<T> {
  let done = 0
  let part = PART
  let tries = 0
  for (;;) {
    const data = await base64(file.slice(done, done + part))
    try {
      const answer = await put({ offset: done, size: file.size, data }, signal)
      done = answer.received
      tries = 0
      tell(done)
      if (done >= file.size) return answer
    } catch (error) {
      if (!(error instanceof ApiError)) throw error
      if (error.status === 413 && part > SMALLEST) part = Math.floor(part / 2)
      else if (error.away && ++tries <= TRIES) await pause(ROUND)
      else throw error
    }
  }
}

export const pause = (milliseconds: number): Promise<void> => new Promise((done) => setTimeout(done, milliseconds))

function base64(part: Blob): Promise<string> {
  return new Promise((done, failed) => {
    const reader = new FileReader()
    reader.onload = () => done((reader.result as string).replace(/^[^,]*,/, ''))
    reader.onerror = () => failed(new Error('The file cannot be read (any more).'))
    reader.readAsDataURL(part)
  })
}
