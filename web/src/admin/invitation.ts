/** What to write to somebody who may sign in from now on. */

import type { Role } from '@/api/users'

export function invitation(origin: string, role: Role, address: string, name: string): string {
  const hello = name ? `Hello ${name},` : 'Hello,'
  const article = role === 'admin' || role === 'owner' ? 'an' : 'a'
  return [
    hello,
    '',
    `you can use our Flowork box now, as ${article} ${role}. Open`,
    '',
    `    ${origin}`,
    '',
    `on our network and sign in with the key of ${address}, from its key file or with your wallet. There is no password.`,
  ].join('\n')
}
