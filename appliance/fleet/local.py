"""The socket in the data folder at which this machine's own agent is heard."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

SOCKET = "agent.sock"


def listen(data: Path) -> socket.socket:
    """The socket of this machine's agent. The caller holds the kernel's lock, so an old one is dead."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(FileNotFoundError):
            (data / SOCKET).unlink()
        link.bind(f"/proc/self/fd/{folder}/{SOCKET}")
        (data / SOCKET).chmod(0o600)
        link.listen(8)
        link.setblocking(False)
    except BaseException:
        link.close()
        raise
    finally:
        os.close(folder)
    return link
