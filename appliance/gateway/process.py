"""The gateway as a process: one gunicorn worker (gthread) that serves until SIGTERM.

Imported by the supervisor before it forks, so nothing large is imported here.
"""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path

#: Requests that are worked on at once; live connections hold one each (see ``live``).
THREADS = 64


def main(data: Path, host: str, port: int, listen_fd: int | None = None) -> int:
    """Serve the engine of a data folder; the exit code. The caller holds the folder's gateway lock.

    ``listen_fd`` is a socket that listens already; without one, ``host`` and ``port`` are bound here. Raises
    ``FlowError``, such as ``ListenError`` for a taken port.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(levelname)s: %(message)s")
    listener = socket.socket(fileno=listen_fd) if listen_fd is not None else _bind(host, port)
    from appliance.gateway import server

    return server.serve(data, listener, THREADS)


def _bind(host: str, port: int) -> socket.socket:
    from appliance import listener

    bound = listener.bind(host, port)
    listener.listen(bound)
    return bound
