/** How well a text fits what somebody has typed so far: 0 for not at all, more for whole words and beginnings. */

export function matches(text: string, typed: string): number {
  const all = text.toLowerCase()
  let score = 0
  for (const word of typed.toLowerCase().split(/\s+/).filter(Boolean)) {
    const at = all.indexOf(word)
    if (at === 0) score += 4
    else if (at > 0) score += /[\s_-]/.test(all[at - 1]!) ? 3 : 2
    else if (isSubsequence(all, word)) score += 1
    else return 0
  }
  return score
}

/** `hreq` finds “HTTP request”; only short texts, or anything would be found in any sentence. */
function isSubsequence(text: string, letters: string): boolean {
  if (text.length > 40 || letters.length < 2) return false
  let at = 0
  for (const letter of letters) {
    at = text.indexOf(letter, at) + 1
    if (!at) return false
  }
  return true
}
