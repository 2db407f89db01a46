"""Keys, addresses and personal messages, against signatures made by eth-account 0.13."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.security.secret import Secret
from appliance.security.wallet import (
    ORDER,
    BadAddress,
    BadSignature,
    address_of,
    checksummed,
    new_private_key,
    parse_address,
    recover,
    sign_message,
)

SIWE = """service.org wants you to sign in with your Ethereum account:
0xE5A12547fe4E872D192E3eCecb76F2Ce1aeA4946

I accept the ServiceOrg Terms of Service: https://service.org/tos

URI: https://service.org/login
Version: 1
Chain ID: 1
Nonce: 12341234
Issued At: 2022-03-17T12:45:13.610Z
Expiration Time: 2023-03-17T12:45:13.610Z"""
FORTY_SIX, ONE, LAST, DOCS = (
    "46" * 32,
    f"{1:064x}",
    f"{ORDER - 1:064x}",
    "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318",
)
ADDRESSES = {
    FORTY_SIX: "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F",
    ONE: "0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf",
    LAST: "0x80C0dbf239224071c59dD8970ab9d542E3414aB2",
    DOCS: "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23",
}
#: Key, text, r, and s with v.
SIGNATURES = [
    (
        FORTY_SIX,
        "",
        "ff65394fc6cc70eee8e5ee1160dfa355a0484ad2988b65d01aee4bf58288958f",
        "082ce5e2c2d9d49130a2b1e8d01850cc00b0f17637f029570420e5a4a8d724fd1c",
    ),
    (
        FORTY_SIX,
        "x" * 136,
        "9e87ddaf476cbb18e3d3d912699bfa456298fe35be46a21d737d3a20e3371109",
        "57fa61c897c55584f69d78eee06295dd7b3bb527dbd5355e4f189b94cc3d1a1a1c",
    ),
    (
        ONE,
        "Hello, World!",
        "2afaa502bca948e9e2b3c7a5d8c1085f60767686e874783970df2fa8d7826b98",
        "0f0eaddfbdb99a7a5791d9cef881fad2c246fbe2ca2d0bb3c7a52a52217fc4001b",
    ),
    (
        LAST,
        "Grüße an die Gärtnerin 🌱",
        "e65ed000c6400b906072ed1b0f15355728409e02ef0c974f4a78a4a4fac5916f",
        "30cdafe1a53986a11cab16c29b43844eafa9b1b62d6bf8963d1af4d98f3f9a1c1b",
    ),
    (
        LAST,
        "two\nlines\r\n",
        "8247f393b938fd0769e46e5f91785ff395bc9f63fc87fed8324ef2193a1607fe",
        "12c4bbe37cd04cd99d3dc75bd92ff5985f02dc2b1a9539f3959bcfe192f1256c1c",
    ),
    (
        DOCS,
        SIWE,
        "76041e0733d5210eaae6441f6cc582f1f37727051c5652297502bdd7c344305a",
        "31c97c518dafd231e29cb60d4d62338c178fa6b679d01539fc4eafc092ce299e1b",
    ),
]
KEY = Secret("0x" + FORTY_SIX)
SIGNED = sign_message(KEY, "open the window")
keys = st.integers(1, ORDER - 1).map(lambda number: Secret(f"0x{number:064x}"))


@pytest.mark.parametrize("key", ADDRESSES)
def test_addresses(key: str) -> None:
    address = address_of(Secret("0x" + key))
    assert address == ADDRESSES[key].lower()
    assert checksummed(address) == ADDRESSES[key]


@pytest.mark.parametrize(("key", "text", "r", "sv"), SIGNATURES)
def test_signatures_of_a_wallet(key: str, text: str, r: str, sv: str) -> None:
    assert sign_message(Secret("0x" + key), text) == "0x" + r + sv
    assert recover(text, "0x" + r + sv) == ADDRESSES[key].lower()


@given(key=keys, text=st.text(max_size=300))
def test_what_is_signed_is_recovered(key: Secret, text: str) -> None:
    assert recover(text, sign_message(key, text)) == address_of(key)


@given(place=st.integers(0, 519))
def test_a_flipped_bit_never_gives_the_same_signer(place: int) -> None:
    raw = bytearray.fromhex(SIGNED[2:])
    raw[place // 8] ^= 1 << place % 8
    try:
        signer = recover("open the window", "0x" + raw.hex())
    except BadSignature:
        return
    assert signer != address_of(KEY)


def test_v_may_be_0_or_1() -> None:
    raw = bytes.fromhex(SIGNED[2:])
    assert recover("open the window", "0x" + (raw[:64] + bytes((raw[64] - 27,))).hex()) == address_of(KEY)


def test_the_high_s_twin_is_refused() -> None:
    raw = bytes.fromhex(SIGNED[2:])
    twin = (ORDER - int.from_bytes(raw[32:64], "big")).to_bytes(32, "big")
    with pytest.raises(BadSignature, match="low s"):
        recover("open the window", "0x" + (raw[:32] + twin + bytes((27 + 28 - raw[64],))).hex())


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "0x",
        SIGNED[2:],
        SIGNED + "00",
        SIGNED[:-2] + "1d",
        SIGNED[:-2] + "ff",
        "0x" + "0" * 128 + "1b",
        "0x" + "f" * 64 + SIGNED[66:],
        "0x" + f"{5:064x}" + SIGNED[66:],  # r = 5 is on no point of the curve
        SIGNED[:-1] + "g",
        SIGNED + "\n",
    ],
)
def test_what_is_no_signature(signature: str) -> None:
    with pytest.raises(BadSignature):
        recover("open the window", signature)


def test_text_that_is_not_unicode() -> None:
    with pytest.raises(BadSignature):
        recover("\ud800", SIGNED)


def test_new_keys_differ_and_are_hidden() -> None:
    first, second = new_private_key(), new_private_key()
    assert first.reveal() != second.reveal()
    assert len(first.reveal()) == 66
    assert first.reveal()[4:] not in f"{first} {first!r} {first:>10}"


class TestAddresses:
    def test_any_case_that_carries_no_checksum(self) -> None:
        right = ADDRESSES[DOCS]
        for given_ in (right, right.lower(), "0x" + right[2:].upper(), f"  {right}\n"):
            assert parse_address(given_) == right.lower()

    def test_one_wrong_letter_is_noticed(self) -> None:
        with pytest.raises(BadAddress, match="typing error"):
            parse_address(ADDRESSES[DOCS].replace("C1", "c1"))

    @pytest.mark.parametrize(
        "text", ["", "0x", "9d8a", "0x" + "g" * 40, "0x" + "1" * 41, "vitalik.eth", "0x\0" + "1" * 39]
    )
    def test_what_is_no_address(self, text: str) -> None:
        with pytest.raises(BadAddress, match="40 hex digits"):
            parse_address(text)
