"""Asking the kernel for something that takes long, for as long as our caller is there."""

from __future__ import annotations

import select
import socket
from typing import Any

from flask import request

from appliance.gateway.services import Gateway

#: Seconds between two looks whether the caller is still there.
_LOOK = 1.0


def patiently(gateway: Gateway, method: str, patience: float, /, **params: Any) -> Any:
    """Call the kernel for something that takes long (``patience``: seconds), and end it if our caller goes away.

    Raises what ``KernelClient.call`` raises, and ``Busy`` if all places are taken.
    """
    link = request.environ.get("gunicorn.socket")
    until = gateway.monotonic() + patience
    with gateway.places.one():
        stream = gateway.kernel.stream(method, **params)
        try:
            return stream.result(lambda: gateway.monotonic() < until and not _hung_up(link), _LOOK)
        finally:
            stream.close()


def _hung_up(link: socket.socket | None) -> bool:
    """Whether the other end has closed the connection; only gunicorn tells which it is."""
    if link is None:
        return False
    poll = select.poll()
    poll.register(link, select.POLLRDHUP)
    return bool(poll.poll(0))
