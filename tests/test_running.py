"""Where a gateway listens, found out from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from appliance import running

#: A process that holds a folder's gateway, listens where it is told to, and answers as a gateway does.
GATEWAY = """
import http.server, sys
from pathlib import Path
from appliance.paths import EngineLock
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/v1/health" else 404)
        self.end_headers()
    def log_message(self, *words):
        pass
with EngineLock(Path(sys.argv[1]), "gateway"), http.server.HTTPServer((sys.argv[2], 0), Health) as server:
    print(server.server_port, flush=True)
    server.serve_forever()
"""


class Gateway:
    """A gateway as a process of its own."""

    def __init__(self, data: Path, host: str) -> None:
        command = [sys.executable, "-c", GATEWAY, str(data), host]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def test_without_a_gateway_or_with_one_for_this_machine_only_there_is_no_port(tmp_path: Path) -> None:
    assert running.gateway_port(tmp_path) == 0
    with Gateway(tmp_path, "127.0.0.1"):
        assert running.gateway_port(tmp_path) == 0


def test_the_port_for_other_machines_is_seen(tmp_path: Path) -> None:
    with Gateway(tmp_path, "0.0.0.0") as gateway:
        assert running.gateway_port(tmp_path) == gateway.port


def test_where_its_sockets_cannot_be_seen_it_is_asked_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a service with ``PrivateUsers=``; what else of this user listens is no gateway, nor is this process."""
    sockets = running._sockets
    monkeypatch.setattr(running, "_sockets", lambda pid: sockets(pid) if pid == os.getpid() else iter(()))
    asked: list[int] = []
    answers = running.answers

    def counted(host: str, port: int, timeout: float = 5.0) -> bool:
        asked.append(port)
        return answers(host, port, timeout)

    monkeypatch.setattr(running, "answers", counted)
    with (
        Gateway(tmp_path, "0.0.0.0") as gateway,
        socket.create_server(("0.0.0.0", 0)) as mine,
    ):
        here, rows = {gateway.port, mine.getsockname()[1]}, running._rows
        # On this machine other engines of the same user may run, which a box has not.
        monkeypatch.setattr(running, "_rows", lambda: (row for row in rows() if row.port in here))
        port = running.gateway_port(tmp_path)
        assert port == gateway.port
        assert mine.getsockname()[1] not in asked
        asked.clear()
        assert running.gateway_port(tmp_path, port) == port
        assert not asked
