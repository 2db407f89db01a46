"""Asking the model host over its socket, over plain HTTP: what is loaded, and how fast a model is."""

from __future__ import annotations

import fcntl
import http.client
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from appliance.ai.host import door
from appliance.ai.library.errors import HostAway
from appliance.contracts import FlowError

#: Held by a host for as long as it runs.
LOCK = "models.lock"


class _Link(http.client.HTTPConnection):
    def __init__(self, data: Path, timeout: float) -> None:
        super().__init__("models", timeout=timeout)
        self._data = data

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with door.address(self._data) as address:
            self.sock.connect(address)


def runs(data: Path) -> bool:
    """Whether a host runs; found out without asking it, for that would start one."""
    try:
        handle = os.open(data / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def stats(data: Path, timeout: float = 3.0) -> dict[str, Any] | None:
    """What the host says of itself; None if none runs, or it does not answer."""
    if not runs(data):
        return None
    try:
        found: dict[str, Any] = ask(data, "GET", "/stats", None, timeout)
    except FlowError:
        return None
    return found


def leave(data: Path) -> None:
    """Have a host that runs end as soon as nothing works, since its settings are others now."""
    if runs(data):
        with suppress(FlowError):
            ask(data, "POST", "/leave", {}, 3.0)


def ask(data: Path, method: str, path: str, body: Any, timeout: float) -> Any:
    """One request; starts the host if ``flowork up`` or systemd holds its door. Raises ``HostAway``, and ``FlowError``
    with the host's own words.
    """
    link = _Link(data, timeout)
    try:
        sent = None if body is None else msgspec.json.encode(body)
        link.request(method, path, sent, {"Content-Type": "application/json"} if sent else {})
        answer = link.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as exc:
        reason = f"no answer for {timeout:.0f} s" if isinstance(exc, TimeoutError) else "it is not there"
        raise HostAway(f"the model host of {data} does not answer ({reason}); `flowork up` starts it") from None
    finally:
        link.close()
    try:
        found = msgspec.json.decode(content)
    except msgspec.DecodeError:
        raise HostAway("the model host answers with something that is no JSON") from None
    if answer.status >= http.client.BAD_REQUEST:
        error = found.get("error", {}) if isinstance(found, dict) else {}
        raise HostRefused(str(error.get("message", f"it says {answer.status}")))
    return found


class HostRefused(FlowError):
    """The model host will not do what it was asked for."""

    id = "refused"
    retryable = False
