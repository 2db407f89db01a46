/// <reference types="vitest/config" />
import { fileURLToPath } from 'node:url'
import vue from '@vitejs/plugin-vue'
import { defineConfig } from 'vite'
import { licences } from './vite/licences'
import { pages } from './vite/pages'

const root = fileURLToPath(new URL('.', import.meta.url))
/** The engine that `npm run dev` talks to. */
const engine = process.env.FLOWORK_ENGINE ?? 'http://127.0.0.1:5000'

export default defineConfig({
  root,
  plugins: [pages(root), licences(root), vue()],
  resolve: { alias: { '@': fileURLToPath(new URL('./src', import.meta.url)) } },
  build: { target: 'es2022', manifest: 'manifest.json', chunkSizeWarningLimit: 400 },
  worker: { format: 'es' },
  server: { proxy: { '/api': { target: engine, ws: true }, '/docs': engine, '/hooks': engine } },
  test: {
    environment: 'happy-dom',
    include: ['tests/**/*.test.ts', 'src/**/*.test.ts'],
    restoreMocks: true,
    maxWorkers: 1,
  },
})
