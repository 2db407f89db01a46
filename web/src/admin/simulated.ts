/** A board for those without hardware: a flow whose trigger has the simulated driver run. */

import type { FlowBody } from '@/api/versions'

/** A press of its button lights its lamp for a while; it does something the moment it is there. */
export function simulatedBoard(name: string): FlowBody {
  const device = { driver: 'sim', config: { name } }
  const lamp = (id: string, title: string, value: boolean): FlowBody => ({
    id,
    type: 'device_command',
    name: title,
    config: { ...device, entity: 'lamp', value, repeatable: true },
  })
  return {
    name: `Simulated board ${name}`,
    description: 'Has a simulated thermometer, lamp and button. A press of the button lights the lamp for ten seconds.',
    tags: ['simulated'],
    triggers: [{ id: 'button', type: 'device', name: 'The button is pressed', config: { ...device, entity: 'button', events: ['pressed'] } }],
    nodes: [lamp('on', 'Lamp on', true), { id: 'wait', type: 'delay', config: { for: '10s' } }, lamp('off', 'Lamp off', false)],
    edges: [{ from: 'on', to: 'wait' }, { from: 'wait', to: 'off' }],
    settings: { mode: 'restart' },
  }
}

/** The first of board, board2, board3 … that is not there yet. */
export function freeName(taken: readonly string[]): string {
  for (let n = 1; ; n++) {
    const name = n === 1 ? 'board' : `board${n}`
    if (!taken.includes(name)) return name
  }
}
