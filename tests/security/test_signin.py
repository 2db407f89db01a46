"""Challenge and response: the happy way, and every way in which a challenge may be misused."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import ConfigError
from appliance.security.nonces import MemoryNonces
from appliance.security.roles import Unauthorized
from appliance.security.secret import Secret
from appliance.security.signin import SignIn
from appliance.security.wallet import BadAddress, address_of, checksummed, new_private_key, sign_message
from tests.security.memory import Clock

KEY = Secret("0x" + "46" * 32)
ADDRESS = address_of(KEY)
HOST, URI = "flowork.local:5000", "http://flowork.local:5000/"
CLOCK = Clock()
FIXED = SignIn(b"k" * 32, MemoryNonces(CLOCK), now=CLOCK)
CHALLENGE = FIXED.challenge(ADDRESS, domain=HOST, uri=URI).text


def anybody(address: str) -> bool:
    return True


class Box:
    def __init__(self, known: Callable[[str], bool] = anybody) -> None:
        self.clock = Clock()
        self.signin = SignIn(b"k" * 32, MemoryNonces(self.clock), now=self.clock, ttl=300)
        self.known = known

    def ask(self, address: str = ADDRESS, domain: str = HOST, uri: str = URI) -> str:
        return self.signin.challenge(address, domain=domain, uri=uri).text

    def answer(self, text: str, signature: str | None = None, domain: str = HOST) -> str:
        signature = sign_message(KEY, text) if signature is None else signature
        return self.signin.verify(text, signature, domain=domain, known=self.known)


@pytest.fixture
def box() -> Box:
    return Box()


def test_sign_in(box: Box) -> None:
    assert box.answer(box.ask()) == ADDRESS


def test_the_text_is_eip_4361(box: Box) -> None:
    head, who, empty, statement, blank, *fields = box.ask().split("\n")
    assert head == "http://flowork.local:5000 wants you to sign in with your Ethereum account:"
    assert who == checksummed(ADDRESS)
    assert (empty, blank) == ("", "")
    assert "Sign in to Flowork" in statement
    names = [field.partition(": ")[0] for field in fields]
    assert names == ["URI", "Version", "Chain ID", "Nonce", "Issued At", "Expiration Time"]
    values = dict(field.split(": ", 1) for field in fields)
    assert values["Issued At"] == "2026-11-21T01:21:38.250Z"
    assert values["Expiration Time"] == "2026-11-21T01:26:38.250Z"
    assert len(values["Nonce"]) >= 8
    assert values["Nonce"].isalnum()


def test_https_pages_name_no_scheme(box: Box) -> None:
    text = box.ask(domain="flowork.example.org", uri="https://flowork.example.org/")
    assert text.startswith("flowork.example.org wants you")
    assert box.answer(text, domain="flowork.example.org") == ADDRESS


def test_any_address_gets_a_challenge(box: Box) -> None:
    stranger = address_of(new_private_key())
    assert checksummed(stranger) in box.ask(stranger)


def test_replay(box: Box) -> None:
    text = box.ask()
    signature = sign_message(KEY, text)
    box.answer(text, signature)
    with pytest.raises(Unauthorized, match="used already"):
        box.answer(text, signature)
    assert box.answer(box.ask()) == ADDRESS


def test_one_winner_among_many_at_once(box: Box) -> None:
    text = box.ask()
    signature = sign_message(KEY, text)
    outcomes: list[bool] = []
    gate = threading.Barrier(8)

    def race() -> None:
        gate.wait(timeout=10)
        try:
            outcomes.append(bool(box.answer(text, signature)))
        except Unauthorized:
            outcomes.append(False)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert sorted(outcomes) == [False] * 7 + [True]


def test_expiry(box: Box) -> None:
    text = box.ask()
    box.clock.time += 299.9
    late = box.ask()
    assert box.answer(text) == ADDRESS
    box.clock.time += 300
    with pytest.raises(Unauthorized, match="expired"):
        box.answer(late)


def test_a_clock_set_back_does_not_prolong_a_challenge(box: Box) -> None:
    text = box.ask()
    box.clock.time -= 3600
    with pytest.raises(Unauthorized, match="expired"):
        box.answer(text)


def test_a_used_challenge_stays_used_over_clock_jumps(box: Box) -> None:
    text = box.ask()
    signature = sign_message(KEY, text)
    box.answer(text, signature)
    box.clock.time += 86400
    box.answer(box.ask())
    box.clock.time -= 86400
    with pytest.raises(Unauthorized, match="used already"):
        box.answer(text, signature)


def test_after_a_restart_old_challenges_do_not_count(box: Box) -> None:
    text = box.ask()
    box.clock.time += 1
    again = SignIn(b"k" * 32, MemoryNonces(box.clock), now=box.clock)
    with pytest.raises(Unauthorized, match="used already"):
        again.verify(text, sign_message(KEY, text), domain=HOST, known=anybody)


def test_two_gateways_with_one_key(box: Box) -> None:
    nonces = MemoryNonces(box.clock)
    first, second = (SignIn(b"s" * 32, nonces, now=box.clock) for _ in range(2))
    text = first.challenge(ADDRESS, domain=HOST, uri=URI).text
    signature = sign_message(KEY, text)
    assert second.verify(text, signature, domain=HOST, known=anybody) == ADDRESS
    with pytest.raises(Unauthorized, match="used already"):
        first.verify(text, signature, domain=HOST, known=anybody)


def test_a_challenge_of_another_engine(box: Box) -> None:
    other = SignIn(b"o" * 32, MemoryNonces(box.clock), now=box.clock)
    text = other.challenge(ADDRESS, domain=HOST, uri=URI).text
    with pytest.raises(Unauthorized, match="another engine"):
        box.answer(text)


def test_another_host(box: Box) -> None:
    with pytest.raises(Unauthorized, match=r"made for evil.example, not for flowork.local"):
        box.answer(box.ask(domain="evil.example", uri="https://evil.example/"))


def test_another_key(box: Box) -> None:
    text = box.ask()
    with pytest.raises(Unauthorized, match="another key"):
        box.answer(text, sign_message(new_private_key(), text))


def test_a_signature_of_another_text(box: Box) -> None:
    with pytest.raises(Unauthorized):
        box.answer(box.ask(), sign_message(KEY, box.ask()))


def test_a_stranger_is_told_after_proving_the_key_and_burns_no_nonce() -> None:
    allowed: set[str] = set()
    box = Box(allowed.__contains__)
    text = box.ask()
    with pytest.raises(Unauthorized, match=r"0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F has no access"):
        box.answer(text)
    with pytest.raises(Unauthorized, match="another key"):
        box.answer(text, sign_message(new_private_key(), text))
    allowed.add(ADDRESS)
    assert box.answer(text) == ADDRESS


@pytest.mark.parametrize("signature", ["", "0x00", "rubbish", "0x" + "0" * 130, "\0"])
def test_rubbish_for_a_signature(box: Box, signature: str) -> None:
    with pytest.raises(Unauthorized):
        box.answer(box.ask(), signature)


@pytest.mark.parametrize(
    "text", ["", "hello", "Nonce: " + "0" * 48, "\0", "x" * 10_000_000, "\ud800", CHALLENGE + "\ud800"]
)
def test_rubbish_for_a_challenge(box: Box, text: str) -> None:
    with pytest.raises(Unauthorized):
        box.answer(text, "0x" + "11" * 65)


@given(place=st.integers(0, len(CHALLENGE) - 1), letter=st.characters())
def test_no_letter_of_a_challenge_can_be_changed(place: int, letter: str) -> None:
    text = CHALLENGE[:place] + letter + CHALLENGE[place + 1 :]
    if text == CHALLENGE:
        return
    signature = sign_message(KEY, text)
    with pytest.raises(Unauthorized):
        FIXED.verify(text, signature, domain=HOST, known=anybody)


@given(cut=st.integers(0, len(CHALLENGE) - 1), tail=st.text(max_size=20))
def test_nor_cut_off_and_replaced(cut: int, tail: str) -> None:
    if (text := CHALLENGE[:cut] + tail) == CHALLENGE:
        return
    signature = sign_message(KEY, text)
    with pytest.raises(Unauthorized):
        FIXED.verify(text, signature, domain=HOST, known=anybody)


@pytest.mark.parametrize(
    ("domain", "uri", "chain_id"),
    [
        ("", URI, 1),
        ("a b", URI, 1),
        ("host\nURI: http://evil", URI, 1),
        (HOST, "", 1),
        (HOST, "javascript:alert(1)", 1),
        (HOST, "http://a b", 1),
        (HOST, "http://host/\nNonce: 00000000", 1),
        (HOST, URI, 0),
        (HOST, URI, 2**64),
    ],
)
def test_what_would_forge_lines(box: Box, domain: str, uri: str, chain_id: int) -> None:
    with pytest.raises(ConfigError):
        box.signin.challenge(ADDRESS, domain=domain, uri=uri, chain_id=chain_id)


def test_a_wrong_address(box: Box) -> None:
    with pytest.raises(BadAddress):
        box.ask("0x1234")
