/**
 * Signing in with a private key, in the page: the key is never sent. Pages over plain http have no `crypto.subtle`, so
 * a small audited library signs (secp256k1; EIP-191, as wallets do).
 */

import { hmac } from '@noble/hashes/hmac.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { keccak_256 } from '@noble/hashes/sha3.js'
import { getPublicKey, hashes, sign, utils } from '@noble/secp256k1'

hashes.sha256 = sha256
hashes.hmacSha256 = (key, message) => hmac(sha256, key, message)

/** What was given is no key; the message says why. */
export class NoKey extends Error {}

const toHex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')

function fromHex(text: string): Uint8Array {
  return Uint8Array.from(text.match(/../g)!, (pair) => parseInt(pair, 16))
}

/** The private key in a text: 64 hex digits, or a key file as `flowork key file` writes it. */
export function readKey(text: string): Uint8Array {
  let found = text.trim()
  if (found.startsWith('{')) {
    let file: { private_key?: unknown; crypto?: unknown }
    try {
      file = JSON.parse(found) as typeof file
    } catch {
      throw new NoKey('This looks like a key file, but a part of it is missing.')
    }
    if (file.crypto) throw new NoKey('This is a wallet’s encrypted file. Sign in with the wallet itself.')
    if (typeof file.private_key !== 'string') throw new NoKey('There is no private key in this file.')
    found = file.private_key
  }
  const digits = found.replace(/^PRIVATE KEY\s+/i, '').replace(/^0x/i, '')
  if (/^[0-9a-f]{40}$/i.test(digits)) throw new NoKey('This is an address. The private key is longer: 64 digits.')
  if (!/^[0-9a-f]{64}$/i.test(digits)) throw new NoKey('A private key is 64 digits from 0 to 9 and a to f.')
  const key = fromHex(digits)
  if (!utils.isValidSecretKey(key)) throw new NoKey('These are 64 digits, but no private key.')
  return key
}

/** The address of a key, with the capitals of EIP-55. */
export function addressOf(key: Uint8Array): string {
  const address = toHex(keccak_256(getPublicKey(key, false).slice(1)).slice(-20))
  const mark = toHex(keccak_256(new TextEncoder().encode(address)))
  return '0x' + [...address].map((digit, i) => (parseInt(mark[i]!, 16) >= 8 ? digit.toUpperCase() : digit)).join('')
}

/** The signature that a wallet's `personal_sign` gives: r, s, v as 0x and 130 hex digits. */
export function signText(text: string, key: Uint8Array): string {
  const body = new TextEncoder().encode(text)
  const head = new TextEncoder().encode(`\x19Ethereum Signed Message:\n${body.length}`)
  const digest = keccak_256(Uint8Array.from([...head, ...body]))
  const [recovery, ...rs] = sign(digest, key, { prehash: false, format: 'recovered' })
  return `0x${toHex(Uint8Array.from(rs))}${(27 + recovery!).toString(16)}`
}
