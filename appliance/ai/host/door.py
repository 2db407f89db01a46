"""The host's Unix socket ``<data>/models.sock``: who holds it open, how it is reached.

Whoever starts the host (systemd, or the supervisor of ``flowork up``) owns the listening socket and hands it over, so
that a request never meets a host that is not there: it waits until one has been started.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from appliance.contracts import FlowError

SOCKET = "models.sock"
_BACKLOG = 128


class DoorTaken(FlowError):
    """Another model host serves this data folder."""

    id = "folder-in-use"


@contextlib.contextmanager
def address(data: Path) -> Iterator[str]:
    """The socket's path, short enough for the kernel's 107 bytes however deep the data folder lies."""
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)


def listen(data: Path) -> socket.socket:
    """Listen at the data folder's socket, for its owner alone. Raises ``DoorTaken`` if somebody does already.

    Connections that nobody takes fill the backlog; the caller takes them or has them taken.
    """
    if answers(data):
        raise DoorTaken(f"another model host serves {data}; stop it first")
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            (data / SOCKET).unlink()
        with address(data) as name:
            door.bind(name)
        (data / SOCKET).chmod(0o600)
        door.listen(_BACKLOG)
        door.setblocking(False)
    except BaseException:
        door.close()
        raise
    return door


def answers(data: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, address(data) as name:
        try:
            probe.connect(name)
        except OSError:
            return False
        return True
