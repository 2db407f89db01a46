/** Every key of the editor, once: what the keys do and what the sheet behind `?` shows. */

export interface Shortcut {
  id: string
  /** As `KeyboardEvent.key`, with `Ctrl+`, `Shift+` and `Alt+` in front; Cmd counts as Ctrl. */
  keys: string[]
  what: string
  section: string
}

const EDIT = 'Edit'
const MOVE = 'Move about'
const LOOK = 'View'
const KEEP = 'Save and run'

export const SHORTCUTS: readonly Shortcut[] = [
  { id: 'right', keys: ['ArrowRight'], what: 'To the next node, along the edge', section: MOVE },
  { id: 'left', keys: ['ArrowLeft'], what: 'To the node before', section: MOVE },
  { id: 'up', keys: ['ArrowUp'], what: 'To the node above', section: MOVE },
  { id: 'down', keys: ['ArrowDown'], what: 'To the node below', section: MOVE },
  { id: 'open', keys: ['Enter'], what: 'Open its settings', section: MOVE },
  { id: 'rename', keys: ['F2'], what: 'Name it', section: MOVE },
  { id: 'enter', keys: ['Ctrl+ArrowDown'], what: 'Into the body of a “For each”', section: MOVE },
  { id: 'leave', keys: ['Ctrl+ArrowUp'], what: 'Out of the body', section: MOVE },
  { id: 'find', keys: ['Ctrl+f', '/'], what: 'Find a node', section: MOVE },
  { id: 'close', keys: ['Escape'], what: 'Stop, close, let go', section: MOVE },

  { id: 'add', keys: ['Insert'], what: 'Add a node behind this one. Typing its name does it too', section: EDIT },
  { id: 'link', keys: ['>', 'Ctrl+.'], what: 'Link this node to another', section: EDIT },
  { id: 'remove', keys: ['Delete', 'Backspace'], what: 'Remove', section: EDIT },
  { id: 'heal', keys: ['Shift+Delete', 'Shift+Backspace'], what: 'Remove, and close the gap', section: EDIT },
  { id: 'toggle', keys: ['Ctrl+/'], what: 'Switch off or on', section: EDIT },
  { id: 'undo', keys: ['Ctrl+z'], what: 'Undo', section: EDIT },
  { id: 'redo', keys: ['Ctrl+Shift+z', 'Ctrl+y'], what: 'Redo', section: EDIT },
  { id: 'copy', keys: ['Ctrl+c'], what: 'Copy as JSON text', section: EDIT },
  { id: 'cut', keys: ['Ctrl+x'], what: 'Cut', section: EDIT },
  { id: 'paste', keys: ['Ctrl+v'], what: 'Paste', section: EDIT },
  { id: 'duplicate', keys: ['Ctrl+d'], what: 'Duplicate', section: EDIT },
  { id: 'all', keys: ['Ctrl+a'], what: 'Pick all', section: EDIT },
  { id: 'group', keys: ['Ctrl+g'], what: 'Group', section: EDIT },
  { id: 'ungroup', keys: ['Ctrl+Shift+g'], what: 'Ungroup', section: EDIT },
  { id: 'nudge-left', keys: ['Shift+ArrowLeft'], what: 'Move to the left', section: EDIT },
  { id: 'nudge-right', keys: ['Shift+ArrowRight'], what: 'Move to the right', section: EDIT },
  { id: 'nudge-up', keys: ['Shift+ArrowUp'], what: 'Move up', section: EDIT },
  { id: 'nudge-down', keys: ['Shift+ArrowDown'], what: 'Move down', section: EDIT },
  { id: 'tidy', keys: ['Ctrl+Shift+l'], what: 'Lay out', section: EDIT },

  { id: 'zoom-in', keys: ['+', '='], what: 'Closer', section: LOOK },
  { id: 'zoom-out', keys: ['-'], what: 'Further away', section: LOOK },
  { id: 'zoom-one', keys: ['0'], what: 'Full size', section: LOOK },
  { id: 'fit', keys: ['1'], what: 'See all of it', section: LOOK },
  { id: 'fit-picked', keys: ['2'], what: 'See what is picked', section: LOOK },
  { id: 'help', keys: ['?'], what: 'These keys', section: LOOK },

  { id: 'save', keys: ['Ctrl+s'], what: 'Save', section: KEEP },
  { id: 'deploy', keys: ['Ctrl+Enter'], what: 'Deploy, after a look at what changes', section: KEEP },
  { id: 'test', keys: ['Ctrl+Shift+Enter'], what: 'Test this node', section: KEEP },
]

/** The shortcut that a key press means, or null. */
export function shortcutOf(event: Pick<KeyboardEvent, 'key' | 'ctrlKey' | 'metaKey' | 'shiftKey' | 'altKey'>): string | null {
  const ctrl = event.ctrlKey || event.metaKey ? 'Ctrl+' : ''
  const alt = event.altKey ? 'Alt+' : ''
  const plain = event.key.length === 1 ? event.key.toLowerCase() : event.key
  // Shift is part of a character such as ? or >, and a key of its own with letters and named keys.
  const shifted = event.shiftKey && (event.key.length > 1 || (ctrl !== '' && /[a-z]/i.test(event.key)))
  const pressed = `${ctrl}${alt}${shifted ? 'Shift+' : ''}${plain}`
  return SHORTCUTS.find((one) => one.keys.includes(pressed))?.id ?? null
}

/** Whether a key press begins a word: then it names a node to be added. */
export function beginsWord(event: Pick<KeyboardEvent, 'key' | 'ctrlKey' | 'metaKey' | 'altKey'>): boolean {
  return !event.ctrlKey && !event.metaKey && !event.altKey && /^\p{L}$/u.test(event.key)
}

/** Whether keys belong to a field that is being typed in. */
export function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || target.closest('input, textarea, select, [role=listbox], [role=menu], dialog') !== null)
}

/** A shortcut's keys as people write them on this machine. */
export function written(keys: string): string {
  const mac = /Mac|iPhone|iPad/.test(navigator.platform)
  const names: Record<string, string> = { ArrowLeft: '←', ArrowRight: '→', ArrowUp: '↑', ArrowDown: '↓', Escape: 'Esc', Delete: 'Del', Ctrl: mac ? '⌘' : 'Ctrl' }
  return keys.split(/\+(?=.)/).map((key) => names[key] ?? (key.length === 1 ? key.toUpperCase() : key)).join(' ')
}
