/** The menu: pages that have an entry, that this engine has an API for, and that one may see. */

import { computed, type ComputedRef } from 'vue'
import { useRouter, type RouteRecordNormalized } from 'vue-router'
import { useSession } from '@/stores/session'
import type { MenuGroup, PageMeta } from './page'

export interface MenuEntry extends PageMeta {
  path: string
  title: string
}

export interface Menu {
  group: MenuGroup
  label: string
  entries: MenuEntry[]
}

const LABELS: Record<MenuGroup, string> = { main: '', build: 'Build', box: 'This box' }

export function useMenu(): ComputedRef<Menu[]> {
  const session = useSession()
  const pages = useRouter()
    .getRoutes()
    .filter((route) => route.meta.group && route.meta.title)
  return computed(() =>
    (Object.keys(LABELS) as MenuGroup[])
      .map((group) => ({
        group,
        label: LABELS[group],
        entries: pages
          .filter((route) => route.meta.group === group && seen(route, session))
          .map((route) => ({ ...route.meta, path: route.path, title: route.meta.title! }))
          .sort((a, b) => (a.order ?? 100) - (b.order ?? 100)),
      }))
      .filter((menu) => menu.entries.length > 0),
  )
}

function seen({ meta }: RouteRecordNormalized, session: ReturnType<typeof useSession>): boolean {
  return (meta.api === undefined || session.has(meta.api)) && (meta.needs === undefined || session.may(meta.needs))
}
