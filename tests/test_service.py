"""Kernel, gateway and agent as systemd runs them: each a process of its own, with a socket for systemd's ear."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.firststart import prepare
from appliance.listener import bind, listen
from tests.support.broker import eventually, free_port


class Ear:
    """Where services say how they are; what one has said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.05)
        self.heard: list[str] = []

    def has(self, word: str) -> bool:
        with contextlib.suppress(TimeoutError):
            while True:
                self.heard += self._socket.recv(500).decode().splitlines()
        return word in self.heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    made = Ear(tmp_path / "notify")
    yield made
    made.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    prepare(folder)
    return folder


@contextlib.contextmanager
def service(ear: Ear, data: Path, *words: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command as a unit runs it; it must end cleanly."""
    with (data.parent / f"{words[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "appliance.cli", *words, "--data", str(data)],
            env={**os.environ, "NOTIFY_SOCKET": str(ear.path), "WATCHDOG_USEC": "2000000", **environ},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def get(port: int) -> int:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        link.request("GET", "/api/v1/health")
        return link.getresponse().status
    finally:
        link.close()


def test_the_kernel_says_when_it_is_up_and_that_it_works(ear: Ear, data: Path) -> None:
    with service(ear, data, "kernel"):
        eventually(lambda: ear.has("READY=1"), "it is up")
        eventually(lambda: ear.has("WATCHDOG=1"), "it works")
    assert ear.has("STOPPING=1")


def test_a_kernel_that_stands_still_feeds_no_watchdog(ear: Ear, data: Path) -> None:
    with service(ear, data, "kernel") as kernel:
        eventually(lambda: ear.has("WATCHDOG=1"), "it works")
        kernel.send_signal(signal.SIGSTOP)
        ear.has("")
        ear.heard.clear()
        assert not ear.has("WATCHDOG=1")
        kernel.send_signal(signal.SIGCONT)
        eventually(lambda: ear.has("WATCHDOG=1"), "it works again")


def test_in_safe_mode_the_kernel_is_up_and_rests(ear: Ear, data: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "appliance.cli", "safe-mode", "on", "--reason", "test", "--data", str(data)],
        check=True, timeout=30, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with service(ear, data, "kernel"):
        eventually(lambda: ear.has("STATUS=safe mode: test"), "it says so")
        assert ear.has("READY=1")
        assert not (data / "kernel.sock").exists()


def test_the_gateway_takes_the_socket_of_systemd(ear: Ear, data: Path) -> None:
    with bind("127.0.0.1", 0) as sock:
        listen(sock)
        port = sock.getsockname()[1]
        code = (
            "import os, sys\n"
            f"os.dup2({sock.fileno()}, 3)\n"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
            f"os.execv(sys.executable, [sys.executable, '-m', 'appliance.cli', 'gateway', '--data', {str(data)!r}])\n"
        )
        environ = {**os.environ, "NOTIFY_SOCKET": str(ear.path)}
        process = subprocess.Popen([sys.executable, "-c", code], env=environ, pass_fds=[sock.fileno()])
        try:
            eventually(lambda: ear.has("READY=1"), "it answers")
            assert get(port) == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            # The socket is systemd's: whoever asks meanwhile waits for the next gateway.
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        finally:
            process.kill()
            process.wait()


def test_without_systemd_the_gateway_binds_its_port_itself(ear: Ear, data: Path) -> None:
    port = free_port()
    with service(ear, data, "gateway", "--host", "127.0.0.1", "--port", str(port)):
        eventually(lambda: ear.has("READY=1"), "it answers")
        assert get(port) == 200


def test_the_agent_connects_to_the_kernel_beside_it(ear: Ear, data: Path) -> None:
    with service(ear, data, "kernel"), service(ear, data, "local-agent"):
        eventually(lambda: ear.has("") or "STATUS=connected" in "\n".join(ear.heard), "it is connected")


@pytest.mark.parametrize("command", ["kernel", "gateway", "local-agent"])
def test_a_folder_without_an_engine_is_refused_in_a_line(tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", command, "--data", str(tmp_path / "none")],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "make one with `flowork init`" in done.stderr
    assert not (tmp_path / "none").exists()
