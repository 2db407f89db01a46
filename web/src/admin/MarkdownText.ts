/**
 * Markdown as elements of the page, never as HTML that is put in: what a text says can be shown and cannot do anything.
 * CommonMark with GitHub's tables; HTML in it is left out.
 */

import { GFM, parser } from '@lezer/markdown'
import type { SyntaxNode } from '@lezer/common'
import { defineComponent, h, type PropType, type VNodeChild } from 'vue'
import { RouterLink } from 'vue-router'

export interface Links {
  link: (href: string) => { to?: string; href?: string }
  picture: (src: string) => string
}

const MARKDOWN = parser.configure(GFM)
const ENTITIES: Record<string, string> = { '&amp;': '&', '&lt;': '<', '&gt;': '>', '&quot;': '"', '&nbsp;': '\u00a0', '&#39;': "'" }
const TAGS: Record<string, string> = {
  Paragraph: 'p', BulletList: 'ul', OrderedList: 'ol', ListItem: 'li', Blockquote: 'blockquote',
  Emphasis: 'em', StrongEmphasis: 'strong', Strikethrough: 's',
}

/** A heading's anchor, as GitHub makes it. */
export const anchorOf = (text: string): string =>
  text.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, '').trim().replace(/\s/g, '-')

class Renderer {
  constructor(private readonly text: string, private readonly links: Links) {}

  private slice(node: { from: number; to: number }): string {
    return this.text.slice(node.from, node.to)
  }

  /** The content of a node: its parts, and the text between them. */
  inside(node: SyntaxNode): VNodeChild[] {
    const found: VNodeChild[] = []
    let at = node.from
    for (let child = node.firstChild; child; child = child.nextSibling) {
      if (child.from > at) found.push(this.text.slice(at, child.from))
      found.push(this.render(child))
      at = child.to
    }
    if (at < node.to) found.push(this.text.slice(at, node.to))
    return found
  }

  /** What stands in blocks only: the gaps between them are empty lines. */
  blocks(node: SyntaxNode): VNodeChild[] {
    const found: VNodeChild[] = []
    for (let child = node.firstChild; child; child = child.nextSibling) found.push(this.render(child))
    return found
  }

  private render(node: SyntaxNode): VNodeChild {
    const { name } = node
    if (name.endsWith('Mark') || name === 'TableDelimiter' || name === 'LinkReference' || /HTML|Comment|Processing/.test(name)) return null
    const heading = /^(?:ATX|Setext)Heading(\d)$/.exec(name)
    if (heading) {
      const text = this.inside(node)
      const plain = this.slice(node).replace(/^#+\s*|\s*#*$/g, '').replace(/[`*]/g, '')
      return h(`h${heading[1]}`, { id: anchorOf(plain), tabindex: -1 }, trimmed(text))
    }
    switch (name) {
      case 'Document': return this.blocks(node)
      case 'BulletList': case 'OrderedList': case 'ListItem': case 'Blockquote': return h(TAGS[name]!, this.blocks(node))
      case 'Paragraph': case 'Emphasis': case 'StrongEmphasis': case 'Strikethrough': return h(TAGS[name]!, this.inside(node))
      case 'FencedCode': case 'CodeBlock': return h('pre', { tabindex: 0 }, h('code', this.code(node)))
      case 'InlineCode': return h('code', this.slice(node).replace(/^`+ ?| ?`+$/g, ''))
      case 'Link': return this.link(node, trimmed(this.inside(node)))
      case 'Autolink': case 'URL': return name === 'URL' && node.parent?.name === 'Link' ? null : this.anchor(this.slice(node).replace(/^<|>$/g, ''), [this.slice(node).replace(/^<|>$/g, '')])
      case 'Image': return this.picture(node)
      case 'HorizontalRule': return h('hr')
      case 'HardBreak': return h('br')
      case 'Escape': return this.slice(node).slice(1)
      case 'Entity': return ENTITIES[this.slice(node)] ?? this.slice(node)
      case 'Table': return this.table(node)
      case 'LinkTitle': case 'LinkLabel': case 'CodeInfo': return null
      default: return this.inside(node)
    }
  }

  private code(node: SyntaxNode): string {
    const lines: string[] = []
    for (const part of node.getChildren('CodeText')) lines.push(this.slice(part))
    return lines.join('')
  }

  private link(node: SyntaxNode, label: VNodeChild[]): VNodeChild {
    const url = node.getChild('URL')
    return url ? this.anchor(this.slice(url), label) : label
  }

  private anchor(href: string, label: VNodeChild[]): VNodeChild {
    const { to, href: out } = this.links.link(href)
    if (to) return h(RouterLink, { to }, () => label)
    return out ? h('a', { href: out, target: '_blank', rel: 'noopener noreferrer' }, label) : h('span', label)
  }

  private picture(node: SyntaxNode): VNodeChild {
    const url = node.getChild('URL')
    const src = url ? this.links.picture(this.slice(url)) : ''
    const alt = /^!\[([^\]]*)\]/.exec(this.slice(node))?.[1] ?? ''
    return src ? h('img', { src, alt }) : alt
  }

  private table(node: SyntaxNode): VNodeChild {
    const row = (one: SyntaxNode, tag: string): VNodeChild => h('tr', this.cells(one).map((cell) => h(tag, trimmed(cell))))
    const head = node.getChild('TableHeader')
    return h('div', { class: 'wide', tabindex: 0 }, h('table', [
      head ? h('thead', [row(head, 'th')]) : null,
      h('tbody', node.getChildren('TableRow').map((one) => row(one, 'td'))),
    ]))
  }

  /** Empty cells have no node: they are told by the bars around them. */
  private cells(row: SyntaxNode): VNodeChild[][] {
    const bars = row.getChildren('TableDelimiter')
    const cells = row.getChildren('TableCell')
    const edges = [...(bars[0]?.from === row.from ? [] : [row.from]), ...bars.map((bar) => bar.from), ...(bars.at(-1)?.to === row.to ? [] : [row.to])]
    return edges.slice(0, -1).map((from, i) => {
      const cell = cells.find((one) => one.from >= from && one.to <= edges[i + 1]!)
      return cell ? this.inside(cell) : []
    })
  }
}

function trimmed(parts: VNodeChild[]): VNodeChild[] {
  const found = parts.filter((part) => part !== null && part !== '')
  if (typeof found[0] === 'string') found[0] = found[0].trimStart()
  const last = found.length - 1
  if (typeof found[last] === 'string') found[last] = (found[last] as string).trimEnd()
  return found
}

export default defineComponent({
  name: 'MarkdownText',
  props: {
    text: { type: String, required: true },
    links: { type: Object as PropType<Links>, required: true },
  },
  setup: (props) => () => {
    const renderer = new Renderer(props.text, props.links)
    return h('article', { class: 'markdown' }, renderer.blocks(MARKDOWN.parse(props.text).topNode))
  },
})
