/**
 * What a page says of itself in its `<page>` block:
 *
 *     <page>
 *     { "title": "Flows", "icon": "Workflow", "group": "main", "order": 20, "api": "/flows", "needs": "flows:read" }
 *     </page>
 *
 * `vite/pages.ts` reads the block when the panel is built, and the file's name is the route.
 */

import type { Component } from 'vue'

export type MenuGroup = 'main' | 'build' | 'box'

export interface PageMeta {
  /** In the menu, in the browser's tab, in the command palette. */
  title?: string
  /** A name of https://lucide.dev, as a component; the build turns it into one. */
  icon?: Component
  /** Where in the menu; without one the page has no entry. */
  group?: MenuGroup
  order?: number
  /** The path of the API below `/api/v1` that it shows; where the engine has none, the page is left out. */
  api?: string
  /** The permission that it needs in some workspace. */
  needs?: string
  /** May be seen without having signed in. */
  public?: boolean
  /** `bare`: without menu; `full`: the page fills the window and scrolls by itself. */
  layout?: 'bare' | 'full'
  /** The count that its menu entry shows: `approvals`, `letters`, `triggers`, `health`. */
  badge?: string
}

declare module 'vue-router' {
  // eslint-disable-next-line @typescript-eslint/no-empty-object-type -- that is how it is augmented
  interface RouteMeta extends PageMeta {}
}
