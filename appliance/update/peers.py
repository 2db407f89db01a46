"""A release that a paired engine gives: ``peer:NAME``, read through the kernel, which has the link to it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, Annotated, Any

import msgspec
from msgspec import Meta

from appliance.contracts import NodeError
from appliance.update.giving import PIECE, Offer
from appliance.update.sources import PEER, Opener


def opener(call: Callable[..., Any]) -> Opener:
    """``call(method, **parameters)`` asks the kernel (``release_offer``, ``release_piece``).

    What it gives is opened by ``peer:NAME``: the bytes from their start, and how many there are. Raises ``FlowError``.
    """

    def open_source(source: str) -> tuple[IO[bytes], int]:
        peer = source.removeprefix(PEER)
        offered = _told(call("release_offer", peer=peer), Offer | None, peer)
        if offered is None:
            raise NodeError(f"{peer} has no release to give: it was not updated by a release file itself")

        def ask(offset: int) -> bytes:
            told = call("release_piece", peer=peer, id=offered.id, offset=offset)
            return bytes(_told(told, Annotated[bytes, Meta(max_length=PIECE)], peer))

        return io.BufferedReader(_Given(ask), PIECE), offered.size

    return open_source


def _told(value: Any, kind: Any, peer: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise NodeError(f"what {peer} says cannot be read: {exc}") from None


class _Given(io.RawIOBase):
    """Reads on by asking for the next piece; ``ask(offset)`` gives up to ``PIECE`` bytes, none behind the end."""

    def __init__(self, ask: Callable[[int], bytes]) -> None:
        self._ask = ask
        self._offset = 0
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = self._ask(self._offset)
            self._offset += len(self._rest)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
