/// <reference types="vite/client" />

declare module 'virtual:pages' {
  import type { RouteRecordRaw } from 'vue-router'
  export const routes: RouteRecordRaw[]
}

declare module 'virtual:licences' {
  import type { Bundled } from '../vite/licences'

  export const bundled: Bundled[]
}
