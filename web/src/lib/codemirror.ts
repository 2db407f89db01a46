/** CodeMirror, put together once. Loaded when the first editor is shown, and only then. */

import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap, type CompletionContext, type CompletionResult } from '@codemirror/autocomplete'
import { defaultKeymap, history, historyKeymap, indentWithTab } from '@codemirror/commands'
import { json, jsonParseLinter } from '@codemirror/lang-json'
import { bracketMatching, defineLanguageFacet, foldGutter, foldKeymap, HighlightStyle, indentOnInput, Language, syntaxHighlighting } from '@codemirror/language'
import { linter, lintGutter, lintKeymap, type Diagnostic } from '@codemirror/lint'
import { highlightSelectionMatches, search, searchKeymap } from '@codemirror/search'
import { Compartment, EditorState, StateEffect, StateField, type Extension } from '@codemirror/state'
import {
  Decoration, drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers, MatchDecorator, placeholder,
  ViewPlugin, type DecorationSet, type ViewUpdate,
} from '@codemirror/view'
import { tags } from '@lezer/highlight'
import { GFM, parser as markdownParser } from '@lezer/markdown'

export interface EditorOptions {
  text: string
  language: 'json' | 'markdown' | 'template' | 'text'
  label: string
  readonly: boolean
  placeholder: string
  field: boolean
  complete?: (context: CompletionContext) => CompletionResult | null | Promise<CompletionResult | null>
  changed: (text: string) => void
}

/** Something that is wrong on a line; the first is 1. */
export interface LineMark {
  line: number
  message: string
}

export interface EditorHandle {
  setMarks: (marks: readonly LineMark[]) => void
  setText: (text: string) => void
  setReadonly: (readonly: boolean) => void
  setLanguage: (language: EditorOptions['language']) => void
  focus: () => void
  close: () => void
}

const COLOURS = HighlightStyle.define([
  { tag: [tags.propertyName, tags.heading], color: 'var(--text)', fontWeight: '600' },
  { tag: [tags.string, tags.link, tags.url], color: 'var(--succeeded)' },
  { tag: tags.number, color: 'var(--running)' },
  { tag: [tags.bool, tags.null, tags.keyword], color: 'var(--waiting)' },
  { tag: tags.emphasis, fontStyle: 'italic' },
  { tag: tags.strong, fontWeight: '700' },
  { tag: [tags.monospace, tags.processingInstruction, tags.punctuation], color: 'var(--text-faint)' },
  { tag: tags.invalid, color: 'var(--danger)' },
])

const LOOK = EditorView.theme({
  '&': { color: 'var(--text)' },
  '.cm-content': { caretColor: 'var(--text)', padding: '0.4em 0' },
  '.cm-line': { padding: '0 0.6em' },
  '.cm-cursor': { borderLeftColor: 'var(--text)' },
  '.cm-gutters': { background: 'transparent', border: 'none', color: 'var(--text-faint)' },
  '.cm-activeLine, .cm-activeLineGutter': { background: 'var(--surface-hover)' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground': {
    background: 'color-mix(in srgb, var(--accent) 24%, transparent)',
  },
  '.cm-placeholder': { color: 'var(--text-faint)' },
  '.cm-tooltip, .cm-panels': {
    background: 'var(--surface-raised)', color: 'var(--text)', border: '1px solid var(--border)', borderRadius: 'var(--radius-m)',
  },
  '.cm-tooltip-autocomplete > ul > li[aria-selected]': { background: 'var(--accent)', color: 'var(--text-on-accent)' },
  '.cm-completionDetail': { fontStyle: 'normal', opacity: '0.75' },
  '.cm-template': { color: 'var(--accent-text)', background: 'var(--accent-soft)', borderRadius: '3px' },
})

/** `{{ … }}` and `{% … %}` stand out in whatever text they are in. */
const TEMPLATES = new MatchDecorator({
  regexp: /\{\{.*?\}\}|\{%.*?%\}/g,
  decoration: Decoration.mark({ class: 'cm-template' }),
})

const templateMarks = ViewPlugin.fromClass(
  class {
    decorations: DecorationSet
    constructor(view: EditorView) {
      this.decorations = TEMPLATES.createDeco(view)
    }
    update(update: ViewUpdate): void {
      this.decorations = TEMPLATES.updateDeco(update, this.decorations)
    }
  },
  { decorations: (plugin) => plugin.decorations },
)

const setMarks = StateEffect.define<readonly LineMark[]>()

/** What somebody else found wrong with the text. */
const marksField = StateField.define<readonly LineMark[]>({
  create: () => [],
  update: (marks, transaction) => transaction.effects.reduce((now, effect) => (effect.is(setMarks) ? effect.value : now), marks),
})

const marksLinter = linter(
  (view) =>
    view.state.field(marksField).map(({ line, message }): Diagnostic => {
      const { from, to } = view.state.doc.line(Math.min(Math.max(1, line), view.state.doc.lines))
      return { from, to, severity: 'error', message }
    }),
  { needsRefresh: (update) => update.state.field(marksField) !== update.startState.field(marksField) },
)

/** A field that is empty is no JSON, and no fault either. */
const jsonFaults = jsonParseLinter()
const jsonLinter = linter((view) => (view.state.doc.length ? jsonFaults(view) : []))

function languageOf(name: EditorOptions['language']): Extension {
  if (name === 'json') return [json(), jsonLinter]
  if (name === 'markdown') return new Language(defineLanguageFacet(), markdownParser.configure(GFM), [], 'markdown')
  return name === 'template' ? templateMarks : []
}

/** Open an editor in `parent`. */
export function openEditor(parent: HTMLElement, options: EditorOptions): EditorHandle {
  const language = new Compartment()
  const readonly = new Compartment()
  const locked = (on: boolean): Extension => [EditorState.readOnly.of(on), EditorView.editable.of(!on)]
  const whole: Extension = options.field
    ? []
    : [marksField, marksLinter, lintGutter(), lineNumbers(), foldGutter(), highlightActiveLine(), search({ top: true }), highlightSelectionMatches()]
  const view = new EditorView({
    parent,
    state: EditorState.create({
      doc: options.text,
      extensions: [
        whole,
        history(),
        drawSelection(),
        indentOnInput(),
        bracketMatching(),
        closeBrackets(),
        autocompletion(options.complete ? { override: [options.complete] } : {}),
        syntaxHighlighting(COLOURS),
        LOOK,
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({ 'aria-label': options.label, tabindex: '0' }),
        placeholder(options.placeholder),
        keymap.of([
          ...closeBracketsKeymap, ...defaultKeymap, ...(options.field ? [] : searchKeymap), ...historyKeymap, ...foldKeymap,
          ...completionKeymap, ...lintKeymap,
          // In a form Tab goes on to the next field.
          ...(options.field ? [] : [indentWithTab]),
        ]),
        language.of(languageOf(options.language)),
        readonly.of(locked(options.readonly)),
        EditorView.updateListener.of((update) => {
          if (update.docChanged) options.changed(update.state.doc.toString())
        }),
      ],
    }),
  })
  return {
    setMarks: (marks) => {
      if (!options.field) view.dispatch({ effects: setMarks.of(marks) })
    },
    setText: (text) => {
      const now = view.state.doc.toString()
      if (now !== text) view.dispatch({ changes: { from: 0, to: now.length, insert: text } })
    },
    setReadonly: (on) => view.dispatch({ effects: readonly.reconfigure(locked(on)) }),
    setLanguage: (name) => view.dispatch({ effects: language.reconfigure(languageOf(name)) }),
    focus: () => view.focus(),
    close: () => view.destroy(),
  }
}
