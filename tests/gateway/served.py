"""The gateway as a real process, and WebSocket clients that watch it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from simple_websocket import Client, ConnectionClosed

from appliance import listener
from tests.gateway.engine import PATIENCE

ROOT = Path(__file__).parent.parent.parent
_MAIN = """
import sys
from pathlib import Path
from appliance.gateway import process
if len(sys.argv) > 4:
    process.THREADS = int(sys.argv[4])
sys.exit(process.main(Path(sys.argv[1]), "127.0.0.1", int(sys.argv[2]), int(sys.argv[3]) or None))
"""


class Served:
    """A running gateway process."""

    def __init__(
        self, data: Path, threads: int = 64, environ: Mapping[str, str] | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._sock = listener.bind(host, 0)
        listener.listen(self._sock)
        self.port: int = self._sock.getsockname()[1]
        self.log = data / "gateway.log"
        fd = self._sock.fileno()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", _MAIN, str(data), str(self.port), str(fd), str(threads)],
                pass_fds=[fd],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
                stdout=log,
                stderr=log,
            )

    def stop(self) -> int:
        """End it as a supervisor does; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._sock.close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """One request; the socket listens already, so it waits for the gateway to come up."""
        request = urllib.request.Request(self.url(path), headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read()

    def raw(self, data: bytes) -> tuple[int, bytes]:
        """The status and body that come back for bytes on a connection of their own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as client:
            client.sendall(data)
            with client.makefile("rb") as answer:
                status = int(answer.readline().split()[1])
                length = 0
                while line := answer.readline().strip():
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                return status, answer.read(length)


class Watching:
    """A panel that watches live."""

    def __init__(
        self, served: Served, query: str = "", headers: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        url = f"ws://127.0.0.1:{served.port}/api/v1/live{query}"
        self.client = Client(url, headers=dict(headers or {}), **options)
        self.events: list[dict[str, Any]] = []

    def until(self, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The first event, seen before or coming, that is wanted."""
        deadline = time.monotonic() + PATIENCE
        seen = 0
        while True:
            for event in self.events[seen:]:
                if wanted(event):
                    return event
            seen = len(self.events)
            message = self.client.receive(timeout=max(0.01, deadline - time.monotonic()))
            assert message is not None, f"waited too long; there came {self.events}"
            self.events += json.loads(message)

    def close(self) -> None:
        with suppress(ConnectionClosed, OSError):
            self.client.close()
        self.client.thread.join(PATIENCE)


@contextmanager
def watching(served: Served, *args: Any, **options: Any) -> Iterator[Watching]:
    """A panel that watches, and goes away."""
    watcher = Watching(served, *args, **options)
    try:
        yield watcher
    finally:
        watcher.close()
