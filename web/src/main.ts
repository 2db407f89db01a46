/** The panel begins here. */

import { createPinia } from 'pinia'
import { createApp } from 'vue'
import App from './App.vue'
import { useEngines } from './stores/engines'
import { applyTheme } from './lib/theme'
import { makeRouter } from './shell/router'
import './styles/base.css'

applyTheme()
const app = createApp(App)
app.use(createPinia())
useEngines().use()
app.use(makeRouter())
app.mount('#app')
