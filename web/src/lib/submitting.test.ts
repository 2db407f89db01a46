import { describe, expect, it } from 'vitest'
import { ApiError } from '@/api/client'
import { useSubmitting } from './submitting'

const refused = new ApiError({ type: '#invalid', title: 'no', status: 422, detail: 'it is too long', problems: [{ path: 'name', message: 'too long' }] })

describe('sending a form', () => {
  it('tells why it was refused, until it is sent anew', async () => {
    const { busy, refusal, problems, submit } = useSubmitting()
    expect(await submit(() => Promise.reject(refused))).toBe(false)
    expect([busy.value, refusal.value, problems.value]).toEqual([false, 'it is too long', [{ path: 'name', message: 'too long' }]])
    const again = submit(() => Promise.resolve())
    expect([busy.value, refusal.value, problems.value]).toEqual([true, '', []])
    expect(await again).toBe(true)
    expect(busy.value).toBe(false)
  })

  it('hides no fault of its own', async () => {
    const { busy, submit } = useSubmitting()
    await expect(submit(() => Promise.reject(new TypeError('a fault')))).rejects.toThrow('a fault')
    expect(busy.value).toBe(false)
  })
})
