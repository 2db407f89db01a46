/** The keys of the editor at work: what each does, and when it is somebody else's. `shortcuts.ts` has which they are. */

import { nextTick, onBeforeUnmount, onMounted } from 'vue'
import { first, neighbour, type Arrow } from '@/canvas/navigate'
import type { Adding } from './adding'
import { keptText } from './clipboard'
import type { Editor } from './editor'
import { beginsWord, isTyping, shortcutOf } from './shortcuts'

/** Units of the world that an arrow key moves what is picked by. */
const STEP = 20
/** These work also while a field is being typed in. */
const EVERYWHERE = new Set(['save', 'deploy'])

/** What the canvas is asked for. */
export interface LookedAt {
  abort(): boolean
  fit(): void
  fitPicked(): void
  reveal(id: string): void
  zoomBy(factor: number): void
  zoomTo(zoom: number): void
}

/** What the editor around the keys does. */
export interface Deeds {
  /** A dialog has the keys. */
  busy: () => boolean
  /** The panel beside the canvas. */
  side: () => Element | null | undefined
  /** Close the menu; whether one was open. */
  closeMenu: () => boolean
  closePanel: () => void
  copy: () => Promise<void>
  tidy: () => void
  save: () => void
  deploy: () => void
  help: () => void
  refuse: (why: string) => void
}

/** Listens to the window as long as the component lives. */
export function useEditorKeys(editor: Editor, canvas: () => LookedAt | undefined, adding: Adding, does: Deeds): void {
  function go(arrow: Arrow): void {
    const to = neighbour(editor.scene.value, editor.cursor.value, arrow)
    if (!to) return
    editor.pick([to.id])
    canvas()?.reveal(to.id)
    const into = editor.graph.edges?.filter((edge) => edge.from === to.id).map((edge) => edge.to) ?? []
    editor.say(`${to.title}, ${to.subtitle}${to.problems ? `, ${to.problems} problems` : ''}${into.length ? `, leads to ${into.join(', ')}` : ''}`)
  }

  /** Open the settings of what is picked, and put the cursor into the first field of a part of them. */
  function openPicked(part = '.config-form'): void {
    const id = [...editor.picked.value].at(-1) ?? editor.cursor.value ?? first(editor.scene.value)?.id
    if (editor.pickedEdge.value) editor.openEdge(editor.pickedEdge.value.index)
    else if (editor.picked.value.size > 1) editor.panel.value = 'config'
    else if (id) editor.openConfig(id)
    void nextTick(() => {
      const side = does.side()
      const place = side?.querySelector<HTMLElement>(part)
      if (place instanceof HTMLDetailsElement) place.open = true
      const field = ':is(textarea, input, select, [contenteditable])'
      const found = place?.querySelector<HTMLElement>(field) ?? side?.querySelector<HTMLElement>(field)
      found?.focus()
    })
  }

  function escape(): void {
    if (canvas()?.abort() || does.closeMenu()) return
    if (editor.preview.value) editor.preview.value = null
    else if (editor.panel.value !== 'none') does.closePanel()
    else if (editor.picked.value.size || editor.pickedEdges.value.size) editor.clearPicked()
    else if (editor.path.value.length) editor.leave()
  }

  const ACTIONS: Record<string, () => void> = {
    right: () => go('ArrowRight'),
    left: () => go('ArrowLeft'),
    up: () => go('ArrowUp'),
    down: () => go('ArrowDown'),
    open: () => openPicked(),
    rename: () => openPicked('.naming'),
    enter: () => {
      const id = [...editor.picked.value][0]
      if (id && editor.scene.value.byId.get(id)?.hasBody) editor.enter(id)
    },
    leave: () => editor.path.value.length && editor.leave(),
    find: () => (adding.ask.value = { kind: 'find', at: adding.besides(null) }),
    close: escape,
    add: () => adding.askAdd(),
    link: adding.askLink,
    remove: () => editor.removePicked(),
    heal: () => editor.removePicked(true),
    toggle: () => editor.toggleDisabled(),
    undo: () => editor.undo(),
    redo: () => editor.redo(),
    copy: () => void does.copy(),
    cut: () => void does.copy().then(() => editor.removePicked()),
    duplicate: () => editor.duplicate(),
    all: () => editor.pickAll(),
    group: () => editor.group(),
    ungroup: () => editor.ungroup(),
    'nudge-left': () => editor.nudge(-STEP, 0),
    'nudge-right': () => editor.nudge(STEP, 0),
    'nudge-up': () => editor.nudge(0, -STEP),
    'nudge-down': () => editor.nudge(0, STEP),
    tidy: does.tidy,
    'zoom-in': () => canvas()?.zoomBy(1.25),
    'zoom-out': () => canvas()?.zoomBy(0.8),
    'zoom-one': () => canvas()?.zoomTo(1),
    fit: () => canvas()?.fit(),
    'fit-picked': () => canvas()?.fitPicked(),
    help: does.help,
    save: does.save,
    deploy: does.deploy,
    test: () => openPicked('.testing'),
  }
  function key(event: KeyboardEvent): void {
    if (event.defaultPrevented || does.busy()) return
    const action = shortcutOf(event)
    if (isTyping(event.target)) {
      if (action === 'close' && editor.panel.value !== 'none') {
        event.preventDefault()
        return does.closePanel()
      }
      if (!action || !EVERYWHERE.has(action)) return
    }
    // The browser's own paste event brings the text, also where the clipboard may not be read.
    if (action === 'paste') return
    const onCanvas = event.target instanceof HTMLElement && event.target.classList.contains('flow-canvas')
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey
    if (!onCanvas && plain && event.target instanceof HTMLElement && event.target.closest('button, a, summary, [tabindex="0"]') && (event.key === 'Enter' || event.key.startsWith('Arrow'))) return
    if (action && ACTIONS[action]) {
      event.preventDefault()
      ACTIONS[action]()
    } else if (beginsWord(event) && (onCanvas || event.target === document.body)) {
      event.preventDefault()
      adding.askAdd(event.key)
    }
  }

  function pasteText(event: ClipboardEvent): void {
    if (isTyping(event.target) || editor.readonly.value || does.busy()) return
    const text = event.clipboardData?.getData('text/plain') || keptText()
    if (!text) return
    event.preventDefault()
    if (!editor.paste(text)) does.refuse('What was copied is no part of a flow.')
    else void nextTick(() => canvas()?.reveal([...editor.picked.value].at(-1) ?? ''))
  }

  onMounted(() => {
    window.addEventListener('keydown', key)
    window.addEventListener('paste', pasteText)
  })
  onBeforeUnmount(() => {
    window.removeEventListener('keydown', key)
    window.removeEventListener('paste', pasteText)
  })
}
