/** What can be picked from a list by typing: kinds to add, nodes to go to or to link to. */

import { matches } from './search'
import type { Kind, Kinds } from './sceneof'

export interface Choice {
  id: string
  title: string
  detail: string
  icon: string
  /** The category whose colour it has. */
  category: string
  section: string
}

export function kindChoice(kind: Kind, trigger: boolean): Choice {
  return {
    id: `${trigger ? 'trigger' : 'node'} ${kind.type}`,
    title: kind.title,
    detail: kind.summary.replaceAll('`', ''),
    icon: kind.icon,
    category: trigger ? 'trigger' : (kind.category ?? ''),
    section: trigger ? 'Triggers' : titled(kind.category || 'other'),
  }
}

export function titled(category: string): string {
  const special: Record<string, string> = { ai: 'AI' }
  return special[category] ?? category.charAt(0).toUpperCase() + category.slice(1)
}

/** All kinds, triggers first, then by category. */
export function kindChoices(kinds: Kinds, triggers: boolean): Choice[] {
  const nodes = [...kinds.nodes.values()].map((kind) => kindChoice(kind, false))
  nodes.sort((a, b) => a.section.localeCompare(b.section) || a.title.localeCompare(b.title))
  return triggers ? [...[...kinds.triggers.values()].map((kind) => kindChoice(kind, true)), ...nodes] : nodes
}

/** The choices that fit, best first; all of them, in their order, for no text. */
export function found(choices: readonly Choice[], text: string): Choice[] {
  if (!text.trim()) return [...choices]
  return choices
    .map((choice) => ({ choice, score: Math.max(matches(choice.title, text) * 3, matches(choice.id, text) * 2, matches(choice.detail, text)) }))
    .filter(({ score }) => score > 0)
    .sort((a, b) => b.score - a.score)
    .map(({ choice }) => choice)
}
