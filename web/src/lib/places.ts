/** Who sees what a step works on, since it asks models there, in words. */

/** `?` stands for what only a run can tell. Empty for a step that sends nothing away. */
export function sendsWords(places: readonly string[]): string {
  const named = places.filter((place) => place !== '?')
  const all = [...named, ...(places.length > named.length ? ['a place that only the run can tell'] : [])]
  return all.length ? `Sends what it works on to ${all.join(' and ')}` : ''
}
