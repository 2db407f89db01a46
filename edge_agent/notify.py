"""Tells systemd that the agent is up, alive, or ending (sd_notify(3)): one datagram, no library."""

from __future__ import annotations

import os
import socket


class Systemd:
    """Says nothing where no systemd listens. ``beat`` is every how many seconds it wants to hear from us, or 0."""

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        environ = dict(os.environ) if environ is None else environ
        self._address = environ.get("NOTIFY_SOCKET", "")
        asked = environ.get("WATCHDOG_USEC", "0")
        meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.beat = int(asked) / 2_000_000 if meant and asked.isdigit() else 0.0

    def tell(self, state: str) -> None:
        """Such as ``READY=1``, ``WATCHDOG=1``, ``STOPPING=1``, ``STATUS=…``; a failure harms nobody."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
            try:
                link.connect(address)
                link.send(state.encode())
            except OSError:
                pass
