"""Keccak-256 as Ethereum uses it (addresses, personal messages); ``hashlib`` has only the later SHA-3.

The two differ in one padding byte. Sign-in hashes a few hundred bytes, for which pure Python (0.1-0.3 ms a
block of 136 bytes) is cheaper than one more dependency. Not for secrets or bulk data: it is neither
constant-time nor fast. Source: the Keccak reference, version 3.0, https://keccak.team/files/Keccak-reference-3.0.pdf
"""

from __future__ import annotations

_RATE = 136
_MASK = (1 << 64) - 1
# fmt: off
_ROUNDS = (
    0x0000000000000001, 0x0000000000008082, 0x800000000000808A, 0x8000000080008000, 0x000000000000808B,
    0x0000000080000001, 0x8000000080008081, 0x8000000000008009, 0x000000000000008A, 0x0000000000000088,
    0x0000000080008009, 0x000000008000000A, 0x000000008000808B, 0x800000000000008B, 0x8000000000008089,
    0x8000000000008003, 0x8000000000008002, 0x8000000000000080, 0x000000000000800A, 0x800000008000000A,
    0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008,
)
#: Where each lane goes in the rho and pi steps, and by how much it is rotated.
_MOVES = (
    (10, 1), (7, 3), (11, 6), (17, 10), (18, 15), (3, 21), (5, 28), (16, 36), (8, 45), (21, 55), (24, 2),
    (4, 14), (15, 27), (23, 41), (19, 56), (13, 8), (12, 25), (2, 43), (20, 62), (14, 18), (22, 39), (9, 61),
    (6, 20), (1, 44),
)
# fmt: on


def _permute(lanes: list[int]) -> None:
    for constant in _ROUNDS:
        columns = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        for x in range(5):
            after = columns[(x + 1) % 5]
            parity = columns[x - 1] ^ ((after << 1 | after >> 63) & _MASK)
            for y in range(x, 25, 5):
                lanes[y] ^= parity
        moving = lanes[1]
        for place, turn in _MOVES:
            lanes[place], moving = (moving << turn | moving >> (64 - turn)) & _MASK, lanes[place]
        for y in range(0, 25, 5):
            a, b, c, d, e = lanes[y : y + 5]
            lanes[y : y + 5] = a ^ (~b & c), b ^ (~c & d), c ^ (~d & e), d ^ (~e & a), e ^ (~a & b)
        lanes[0] ^= constant


def keccak256(data: bytes) -> bytes:
    """The 32-byte Keccak-256 digest of ``data``."""
    block = bytearray(data) + b"\x01" + bytes(_RATE - len(data) % _RATE - 1)
    block[-1] |= 0x80
    lanes = [0] * 25
    for start in range(0, len(block), _RATE):
        for lane in range(_RATE // 8):
            at = start + 8 * lane
            lanes[lane] ^= int.from_bytes(block[at : at + 8], "little")
        _permute(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])
