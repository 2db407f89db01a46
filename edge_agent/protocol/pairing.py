"""How two machines that share a short code come to know each other's certificates, and nobody between them can.

SPAKE2 (RFC 9382; here as in Magic Wormhole, over Ed25519) turns the code into a strong key. Whoever sits in between, or
answers in the appliance's place, gets one guess for each connection and learns nothing from a wrong one; the appliance
counts wrong guesses and ends the code. Under that key (HKDF-SHA256, one key for each direction, AES-256-GCM) each side
then sends what the other has to pin.

A code is ``<number>-<six digits>``: the number only says which open pairing is meant, and is no secret.

On the connection, each a frame of four bytes of length and so many of content::

    agent       "FLOWORK-PAIR-1"  number  SPAKE2 message
    appliance                             SPAKE2 message, or empty: no such pairing is open
    agent                                 sealed Request
    appliance                             sealed Answer, or empty: the code was wrong

Two engines pair in the same way, with a :class:`Ceremony` of their own.
"""

from __future__ import annotations

import re
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

LARGEST = 65_536
_CODE = re.compile(r"(\d{1,4})-?(\d{3})-?(\d{3})")
T = TypeVar("T", bound=Struct)


class PairingError(Exception):
    """It did not come to a pairing; the text is for people."""


class WrongCode(PairingError):
    """Somebody who has such a pairing open has another code: asking again would only use up what it allows."""


class Ceremony(Struct, frozen=True):
    """Who pairs with whom: how a connection begins, the names under the key, and what is said where nobody waits."""

    magic: bytes
    guest: bytes
    host: bytes
    nobody: str


AGENTS = Ceremony(
    b"FLOWORK-PAIR-1",
    b"flowork edge agent",
    b"flowork appliance",
    "the appliance has no open pairing with this code; make a new one: flowork agent pair NAME",
)


class Request(Struct):
    """What the agent has to say of itself."""

    certificate: bytes
    machine: str
    host: str


class Answer(Struct):
    """What it learns: the name that it was given, whom to look for, and how to know it."""

    name: str
    engine: str
    certificate: bytes


class Connection(Protocol):
    """What a pairing needs of a socket."""

    def recv(self, count: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> None: ...


class Sealed:
    """Both directions under one key."""

    def __init__(self, shared: bytes, magic: bytes, *, guest: bool) -> None:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        keys = HKDF(hashes.SHA256(), 64, None, magic).derive(shared)
        up, down = AESGCM(keys[:32]), AESGCM(keys[32:])
        self._out, self._in = (up, down) if guest else (down, up)

    def seal(self, message: Struct) -> bytes:
        """Each key seals one message only, so that the nonce may be fixed."""
        return self._out.encrypt(bytes(12), msgspec.msgpack.encode(message), None)

    def open(self, data: bytes, kind: type[T]) -> T:
        """Raises ``PairingError`` if the code was another one."""
        from cryptography.exceptions import InvalidTag

        try:
            return msgspec.msgpack.decode(self._in.decrypt(bytes(12), data, None), type=kind)
        except (InvalidTag, ValueError, msgspec.DecodeError):
            raise WrongCode("the code is not right") from None


def new_code(number: int) -> str:
    """A code for the open pairing with that number."""
    import secrets  # with all that it brings: an agent that is paired never needs it

    digits = f"{secrets.randbelow(1_000_000):06}"
    return f"{number}-{digits[:3]}-{digits[3:]}"


def split(code: str) -> tuple[str, str]:
    """Number and secret of a code as a person writes it. Raises ``PairingError``."""
    found = _CODE.fullmatch(code.strip().replace(" ", "-"))
    if found is None:
        raise PairingError(f"{code!r} is not a pairing code; it looks like 3-482-913")
    return found[1], found[2] + found[3]


def is_magic(link: Connection, ceremony: Ceremony = AGENTS) -> bool:
    """Whether a visitor begins as a pairing does; reads as far as it does."""
    return all(link.recv(1) == bytes([each]) for each in ceremony.magic)


def request(link: Connection, code: str, mine: Request) -> Answer:
    """The agent's side. Raises ``PairingError``, ``OSError``."""
    return exchange(link, code, mine, Answer, AGENTS)


def exchange(link: Connection, code: str, mine: Struct, kind: type[T], ceremony: Ceremony) -> T:
    """The side of who was told the code: what the other answers. Raises ``PairingError``, ``OSError``."""
    from spake2 import SPAKE2_A

    number, secret = split(code)
    spake = SPAKE2_A(secret.encode(), idA=ceremony.guest, idB=ceremony.host)
    link.sendall(ceremony.magic)
    _send(link, number.encode())
    _send(link, spake.start())
    theirs = _receive(link)
    if not theirs:
        raise PairingError(ceremony.nobody)
    sealed = Sealed(_finish(spake, theirs), ceremony.magic, guest=True)
    _send(link, sealed.seal(mine))
    answer = _receive(link)
    if not answer:
        raise WrongCode("the code is not right")
    return sealed.open(answer, kind)


class Guest:
    """The side of who shows the code, step by step, so that it can count what went wrong in between."""

    def __init__(self, link: Connection, ceremony: Ceremony = AGENTS) -> None:
        self._link = link
        self._ceremony = ceremony

    def number(self) -> str:
        """Which open pairing is meant; the magic was read already. Raises ``PairingError``, ``OSError``."""
        return _receive(self._link).decode(errors="replace")

    def exchange(self, code: str) -> Request:
        """What an agent says, if it knows the code. Raises ``PairingError`` if not."""
        return self.hear(code, Request)

    def hear(self, code: str, kind: type[T]) -> T:
        """What the visitor says, if it knows the code. Raises ``PairingError`` if not."""
        from spake2 import SPAKE2_B

        spake = SPAKE2_B(split(code)[1].encode(), idA=self._ceremony.guest, idB=self._ceremony.host)
        theirs = _receive(self._link)
        _send(self._link, spake.start())
        self._sealed = Sealed(_finish(spake, theirs), self._ceremony.magic, guest=False)
        return self._sealed.open(_receive(self._link), kind)

    def answer(self, answer: Struct) -> None:
        """End well."""
        _send(self._link, self._sealed.seal(answer))

    def refuse(self) -> None:
        """End without a pairing."""
        _send(self._link, b"")


def _finish(exchange: Any, theirs: bytes) -> bytes:
    try:
        shared: bytes = exchange.finish(theirs)
    except Exception:  # the library has several for what is no point of the curve
        raise PairingError("the other side does not speak this protocol") from None
    return shared


def _send(link: Connection, data: bytes) -> None:
    link.sendall(len(data).to_bytes(4, "big") + data)


def _receive(link: Connection) -> bytes:
    length = int.from_bytes(_exactly(link, 4), "big")
    if length > LARGEST:
        raise PairingError("the other side does not speak this protocol")
    return _exactly(link, length)


def _exactly(link: Connection, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = link.recv(count - len(data))
        if not piece:
            raise PairingError("the other side has closed the connection")
        data += piece
    return data
