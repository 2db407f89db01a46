import { describe, expect, it } from 'vitest'
import { ApiError } from '@/api/client'
import { useFollowed, useLoaded } from './loaded'

interface Question {
  answer: (value: string[]) => Promise<void>
  refuse: () => Promise<void>
}

/** What is asked is answered by hand. */
function asked(): { fetch: () => Promise<string[]>; questions: Question[] } {
  const questions: Question[] = []
  const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve))
  const fetch = (): Promise<string[]> =>
    new Promise((resolve, reject) => {
      questions.push({
        answer: (value) => (resolve(value), settled()),
        refuse: () => (reject(new ApiError({ type: '#away', title: 'away', status: 0 })), settled()),
      })
    })
  return { fetch, questions }
}

const told = (value: string[], news: readonly string[]): string[] => [...new Set([...value, ...news])]

describe('what is loaded and followed', () => {
  it('has what was told while its first answer was on its way', async () => {
    const { fetch, questions } = asked()
    const { value, load, take } = useFollowed(fetch, told)
    take(['before anybody asked'])
    void load()
    take(['a run that began just then'])
    await questions[0]!.answer(['an older one'])
    expect(value.value).toEqual(['an older one', 'a run that began just then'])
    take(['and one behind it'])
    expect(value.value).toHaveLength(3)
  })

  it('keeps news that an answer asked for before them does not have', async () => {
    const { fetch, questions } = asked()
    const { value, load, take } = useFollowed(fetch, told)
    void load()
    await questions[0]!.answer(['a'])
    void load()
    take(['b'])
    expect(value.value).toEqual(['a', 'b'])
    await questions[1]!.answer(['a'])
    expect(value.value).toEqual(['a', 'b'])
    void load()
    await questions[2]!.answer(['c'])
    expect(value.value).toEqual(['c'])
  })

  it('has only the answer to the newest question', async () => {
    const { fetch, questions } = asked()
    const { value, load, take, busy } = useFollowed(fetch, told)
    void load()
    take(['x'])
    void load()
    await questions[0]!.answer(['old'])
    expect([value.value, busy.value]).toEqual([null, true])
    await questions[1]!.answer(['new, with x in it'])
    expect([value.value, busy.value]).toEqual([['new, with x in it'], false])
  })
})

describe('asking again', () => {
  it('does not call off what is on its way, and asks once more behind it', async () => {
    const { fetch, questions } = asked()
    const { value, load, again } = useLoaded(fetch)
    void load()
    for (let n = 0; n < 5; n++) again()
    expect(questions).toHaveLength(1)
    await questions[0]!.answer(['old'])
    expect(value.value).toEqual(['old'])
    expect(questions).toHaveLength(2)
    await questions[1]!.answer(['new'])
    expect(value.value).toEqual(['new'])
    expect(questions).toHaveLength(2)
  })

  it('asks for nothing that was never asked for, and anew for what did not come', async () => {
    const { fetch, questions } = asked()
    const { value, error, load, again } = useLoaded(fetch)
    again()
    expect(questions).toHaveLength(0)
    void load()
    await questions[0]!.refuse()
    expect(error.value?.away).toBe(true)
    again()
    await questions[1]!.answer(['there'])
    expect([value.value, error.value]).toEqual([['there'], null])
  })
})
