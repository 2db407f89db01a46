/// <reference types="vitest/config" />
import { fileURLToPath } from 'node:url'
import vue from '@vitejs/plugin-vue'
import { defineConfig } from 'vite'
import { budgets } from './vite/budget.ts'
import { compress } from './vite/compress.ts'
import { licences } from './vite/licences.ts'
import { pages } from './vite/pages.ts'

const root = fileURLToPath(new URL('.', import.meta.url))
/** The engine that `npm run dev` talks to. */
const engine = process.env.FLOWORK_ENGINE ?? 'http://127.0.0.1:5000'

export default defineConfig({
  root,
  plugins: [
    pages(root),
    licences(root),
    vue(),
    budgets([
      { page: 'src/pages/index.vue', bytes: 200_000 },
      { page: 'src/pages/flows/[id]/edit.vue', bytes: 350_000, beside: 'src/pages/index.vue' },
    ]),
    compress(),
  ],
  resolve: { alias: { '@': fileURLToPath(new URL('./src', import.meta.url)) } },
  build: { target: 'es2022', manifest: 'manifest.json', chunkSizeWarningLimit: 600 },
  worker: { format: 'es' },
  server: { proxy: { '/api': { target: engine, ws: true }, '/docs': engine, '/hooks': engine } },
  test: {
    environment: 'happy-dom',
    include: ['tests/**/*.test.ts', 'src/**/*.test.ts'],
    restoreMocks: true,
    maxWorkers: 1,
  },
})
