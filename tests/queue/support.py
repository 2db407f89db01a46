"""Helpers of the queue's tests: waiting for a condition, and real servers on free loopback ports."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis

PATIENCE = 30.0


def until(condition: Callable[[], Any], what: str = "the condition", patience: float = PATIENCE) -> Any:
    """Poll until ``condition`` is true; its value."""
    pause = threading.Event()
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {patience} s"
        pause.wait(0.005)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def stopping(process: subprocess.Popen[Any], sign: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(sign)
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()


def _answers(process: subprocess.Popen[Any], call: Callable[[], Any], failure: type[Exception]) -> bool:
    assert process.poll() is None, "the server ended at its start"
    try:
        call()
    except failure:
        return False
    return True


@contextmanager
def redis_server(folder: Path, port: int) -> Iterator[str]:
    """A Redis that keeps nothing on disk; its URL."""
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    log = ["--dir", str(folder), "--logfile", str(folder / "redis.log")]
    process = subprocess.Popen([*command, *log], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    with stopping(process):
        with redis.Redis(port=port) as client:
            until(lambda: _answers(process, client.ping, redis.RedisError), "redis answers")
        yield f"redis://127.0.0.1:{port}/0"


def postgres_bin() -> Path | None:
    """The folder of initdb and postgres, also where Debian keeps them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgres_server(binaries: Path) -> Iterator[str]:
    """A fresh Postgres cluster; its URL. Postgres refuses to run as root, so root becomes somebody else."""
    user: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="flowork-pg-"))
    if os.getuid() == 0:
        name = "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"
        entry = pwd.getpwnam(name)
        user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    cluster = str(folder / "cluster")
    port = free_port()
    try:
        initdb = [binaries / "initdb", "-D", cluster, "-U", "flowork", "-A", "trust", "-N", "-E", "UTF8", "--no-locale"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)
        command = [binaries / "postgres", "-D", cluster, "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **user)
        url = f"postgresql://flowork@127.0.0.1:{port}/postgres"
        with stopping(process, signal.SIGINT):
            until(lambda: _answers(process, lambda: psycopg.connect(url).close(), psycopg.Error), "postgres answers")
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)
