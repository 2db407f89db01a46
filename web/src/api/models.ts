/** Models of this machine: their files, the engine that runs them, what could be fetched and what is on its way. */

import { get, post, put, remove, seg } from './client'

export interface ModelView {
  name: string
  /** `language`, `embedding`, or what an ONNX model is for. */
  kind: string
  bytes: number
  title: string
  architecture: string
  quantization: string
  parameters: number
  /** Tokens. */
  context: number
  chat: boolean
  licence: string
  licence_url: string
  source: string
  checked: boolean
  added: number
  /** Tokens a second. */
  speed: { prompt: number; generation: number; at: number; machine: string } | null
  /** Why it cannot be used. */
  trouble: string
}

/** A model in memory, as the model host tells it. */
export interface LoadedModel {
  model: string
  kind: string
  bytes: number
  working_for: number
  served: number
  [key: string]: unknown
}

export interface ModelEngine {
  kind: string
  version: string
  portable: boolean
  /** What it cannot do. */
  lacks: string
}

export interface Listed {
  items: ModelView[]
  loaded: LoadedModel[]
  default: string[]
  embed: string
  engine: ModelEngine | null
}

export interface Setup {
  state: 'none' | 'running' | 'ready' | 'cut' | 'cancelled' | 'failed' | 'refused'
  phase: string
  done: number
  total: number
  percent: number
  text: string
  began: number
  ended: number
}

export interface SetupView {
  engine: ModelEngine | null
  setup: Setup
  wanted: 'unset' | 'on' | 'off'
}

export interface Machine {
  cpu: string
  cores: number
  memory: number
  /** Bytes that models may use. */
  bound: number
  bandwidth: number
  engine: string
}

export interface Advice {
  name: string
  title: string
  kind: string
  quantization: string
  parameters: number
  bytes: number
  /** Bytes of memory. */
  needs: number
  fits: boolean
  /** Tokens a second. */
  speed: number
  measured: boolean
  here: boolean
  licence: string
  best: boolean
  why: string
}

export interface Order {
  name: string
  title: string
  quantization: string
  bytes: number
  licence: string
  licence_url: string
  source: string
  /** What to know before it is fetched; mostly nothing. */
  note: string
}

export interface Pull {
  id: string
  order: Order
  state: 'waiting' | 'running' | 'done' | 'failed' | 'cancelled'
  done: number
  total: number
  text: string
  began: number
  ended: number
}

/** What to fetch: NAME or NAME:QUANTIZATION of the catalogue, or the address of a GGUF file. */
export interface Wanted {
  model: string
  name?: string
  sha256?: string
}

export const listModels = (signal?: AbortSignal): Promise<Listed> => get('/models', {}, signal)

export const showSetup = (signal?: AbortSignal): Promise<SetupView> => get('/models/setup', {}, signal)

export const beginSetup = (again = false): Promise<void> => post('/models/setup', { again })

export const cancelSetup = (): Promise<void> => remove('/models/setup')

export const recommend = (signal?: AbortSignal): Promise<{ machine: Machine; items: Advice[] }> => get('/models/recommendations', {}, signal)

/** What would be fetched; asks its source. */
export const offerOf = (wanted: Wanted): Promise<Order> => post('/models/offers', wanted)

export const listPulls = async (signal?: AbortSignal): Promise<Pull[]> => (await get<{ items: Pull[] }>('/models/pulls', {}, signal)).items

export const beginPull = (wanted: Wanted): Promise<Pull> => post('/models/pulls', wanted)

export const cancelPull = (id: string): Promise<void> => remove(`/models/pulls/${seg(id)}`)

export const setDefault = (model: string): Promise<void> => put('/models/default', { model })

export const removeModel = (model: string): Promise<void> => remove(`/models/${seg(model)}`)
