"""Connects to the first address of a name that answers, and keeps no other socket (RFC 8305, "happy eyeballs").

The race of asyncio's own ``create_connection`` loses the socket of one that is cancelled just as it has connected
(CPython 3.11): the broker has a silent client until the garbage is searched.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

#: Seconds that an address has for itself before the next one is tried beside it.
HEAD_START = 0.25

#: Family and what ``socket.connect`` takes.
Address = tuple[int, tuple[Any, ...]]


async def dial(host: str, port: int) -> socket.socket:
    """The connected, non-blocking TCP socket. Raises ``OSError``: why the last address could not be reached."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await first_of([(family, address) for family, _type, _proto, _name, address in found])


async def first_of(addresses: Sequence[Address]) -> socket.socket:
    """As :func:`dial`, for addresses that are known; there is at least one."""
    loop = asyncio.get_running_loop()
    waiting = _in_turns(addresses)
    attempts: dict[asyncio.Task[None], socket.socket] = {}
    won: socket.socket | None = None
    refusal = OSError("there is no address")
    try:
        while waiting or attempts:
            if waiting:
                family, address = waiting.pop(0)
                try:
                    sock = socket.socket(family, socket.SOCK_STREAM)
                except OSError as exc:  # this machine does not speak IPv6
                    refusal = exc
                    continue
                sock.setblocking(False)
                attempts[loop.create_task(loop.sock_connect(sock, address))] = sock
            patience = HEAD_START if waiting else None
            done, _ = await asyncio.wait(attempts, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                fault = attempt.exception()
                if fault is None:
                    won = attempts.pop(attempt)
                    return won
                attempts.pop(attempt).close()
                if not isinstance(fault, OSError):
                    raise fault
                refusal = fault
        raise refusal
    finally:
        try:
            await _drop(attempts)
        except asyncio.CancelledError:  # nobody takes the winner any more
            if won is not None:
                won.close()
            raise


async def _drop(attempts: dict[asyncio.Task[None], socket.socket]) -> None:
    """End what is under way. A socket is closed when the loop watches it no longer, hence the waiting."""
    for attempt in attempts:
        attempt.cancel()
    try:
        await asyncio.gather(*attempts, return_exceptions=True)
    finally:
        for sock in attempts.values():
            sock.close()


def _in_turns(addresses: Sequence[Address]) -> list[Address]:
    """The families in turns, the first one first: one that leads nowhere costs one head start."""
    families: dict[int, list[Address]] = {}
    for each in addresses:
        families.setdefault(each[0], []).append(each)
    return [each for each in chain.from_iterable(zip_longest(*families.values())) if each]
