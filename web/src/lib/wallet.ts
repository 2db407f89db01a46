/** A Web3 wallet in the browser (EIP-1193), if there is one. Many come only to pages over https. */

interface Provider {
  request: (call: { method: string; params?: unknown[] }) => Promise<unknown>
}

const provider = (): Provider | undefined => (window as { ethereum?: Provider }).ethereum

export const hasWallet = (): boolean => provider() !== undefined

/** The account that the person lets us see. */
export async function walletAddress(): Promise<string> {
  const accounts = (await provider()!.request({ method: 'eth_requestAccounts' })) as string[]
  if (!accounts[0]) throw new Error('The wallet shows no account to this page.')
  return accounts[0]
}

export async function walletSign(text: string, address: string): Promise<string> {
  const hex = '0x' + Array.from(new TextEncoder().encode(text), (byte) => byte.toString(16).padStart(2, '0')).join('')
  return (await provider()!.request({ method: 'personal_sign', params: [hex, address] })) as string
}
