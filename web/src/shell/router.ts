/** Routes are the files in `src/pages/`. */

import { createRouter, createWebHistory, type RouteLocationNormalized, type Router } from 'vue-router'
import { routes } from 'virtual:pages'
import { useLive } from '@/stores/live'
import { useSession } from '@/stores/session'
import { useToasts } from '@/stores/toasts'

export function makeRouter(): Router {
  const router = createRouter({
    history: createWebHistory(),
    routes,
    scrollBehavior: (to, from, saved) => saved ?? (to.path === from.path ? false : { top: 0 }),
  })

  router.beforeEach(async (to) => {
    const session = useSession()
    if (session.view === null) prepare(to)
    if (session.view === null && !session.ended) await session.load()
    if (session.signedIn) {
      await useLive().start()
      return to.path === '/sign-in' ? String(to.query.to ?? '/') : true
    }
    if (to.meta.public) return true
    // An engine that does not answer is not one that refuses: the shell says so and goes on trying.
    if (session.error !== null) return true
    return { path: '/sign-in', query: to.fullPath === '/' ? {} : { to: to.fullPath } }
  })

  router.onError(async (error: Error, to) => {
    if (!/dynamically imported module|preload CSS|Importing a module/.test(error.message)) return
    const session = useSession()
    await session.load()
    if (session.error !== null) useToasts().problem(`${to.meta.title ?? 'The page'} cannot be opened now`, session.error)
    // The engine was updated while the page was open: its parts have other names now. Begin anew, where one wanted to go.
    else if (!to.query.anew) location.assign(router.resolve({ path: to.path, query: { ...to.query, anew: '1' } }).href)
  })

  router.afterEach((to) => {
    document.title = to.meta.title ? `${to.meta.title} · Flowork` : 'Flowork'
  })

  return router
}

/** Have a page's code on its way while the engine is asked who we are. */
function prepare(to: RouteLocationNormalized): void {
  for (const { components } of to.matched) {
    const load: unknown = components?.default
    // Where that fails the router finds it out, too.
    if (typeof load === 'function') (load as () => Promise<unknown>)().catch(() => undefined)
  }
}
