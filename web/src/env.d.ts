/// <reference types="vite/client" />

declare module 'virtual:pages' {
  import type { RouteRecordRaw } from 'vue-router'
  export const routes: RouteRecordRaw[]
}
