"""Keccak-256 against digests of another implementation (pycryptodome 3.23), around every block edge."""

from __future__ import annotations

import hashlib

import pytest

from appliance.security.keccak import keccak256

# fmt: off
DIGESTS = {
    0: "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470",
    1: "bc36789e7a1e281436464229828f817d6612f7b477d66591ff96a9e064bcc98a",
    55: "797f92d5e159d80a886c0a7802a255b475a1e8e473e8cf4345144824a2aee79c",
    135: "cbdfd9dee5faad3818d6b06f95a219fd290b0e1706f6a82e5a595b9ce9faca62",
    136: "7ce759f1ab7f9ce437719970c26b0a66ff11fe3e38e17df89cf5d29c7d7f807e",
    137: "ac73d4fae68b8453f764007c1a20ce95994187861f0c3227a3a8e99a73a3b1db",
    271: "27eceb59ebc3dc8a04a5b135be641591a7278540e4556a2ba9f408194e666ec3",
    272: "8e2476e65823b24d96ebe239f2c1534cdf763e689e2410c3b1cb0c74e6177bfc",
    273: "3f02f134370e4debb95140ef49ddd3aed8c65ff1ed83a43f1b269421f179c5f9",
    1000: "af692982e84a5a9688359025660a7857cd28ee7c8d867cfa1677baf2e6d1f63b",
}
# fmt: on


@pytest.mark.parametrize("length", DIGESTS)
def test_digests(length: int) -> None:
    assert keccak256(bytes(i % 251 for i in range(length))).hex() == DIGESTS[length]


def test_it_is_not_the_later_sha3() -> None:
    assert keccak256(b"abc") != hashlib.sha3_256(b"abc").digest()
    assert keccak256(b"abc").hex().startswith("4e03657aea45a94f")


def test_input_is_left_alone() -> None:
    data = bytearray(b"flow")
    assert keccak256(data) == keccak256(b"flow")
    assert data == b"flow"
