"""A whole engine, started as a person starts it: ``flowork up`` in a process of its own, on a free port.

with running(tmp_path) as engine:
    urlopen(engine.url + "/api/v1/health")
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil


class Up:
    """A process of ``flowork up``. Its output is in ``lines``, as far as it was read."""

    def __init__(self, data: Path, *args: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "appliance.cli", "up", "--host", "127.0.0.1", "--port", str(port)]
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*command, "--data", str(data), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def until(self, pattern: str) -> re.Match[str]:
        """Reads up to the line that matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"no line {pattern!r} in:\n" + "\n".join(self.lines))

    def ready(self) -> Up:
        """Reads up to the last line of the start."""
        self.url = self.until(r"panel: (http://\S+)")[1]
        self.until(r"PRIVATE KEY|sign in with your owner key; `flowork key show` shows it again$")
        return self

    def children(self) -> dict[str, int]:
        """Pids of the supervisor's children by name, such as ``flowork-kernel``."""
        return {child.name(): child.pid for child in psutil.Process(self.process.pid).children()}

    def family(self) -> list[int]:
        """Pids of all processes of the engine."""
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; the exit code."""
        assert self.process.stdout is not None
        self.process.send_signal(number)
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait()


@contextlib.contextmanager
def started(data: Path, *args: str, port: int = 0) -> Iterator[Up]:
    """The process, whatever becomes of it; killed at the end of the block if it still runs."""
    engine = Up(data, *args, port=port)
    with engine.process:
        try:
            yield engine
        finally:
            engine.process.kill()


@contextlib.contextmanager
def running(data: Path, *args: str) -> Iterator[Up]:
    """An engine that has come up."""
    with started(data, *args) as engine:
        yield engine.ready()


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process ends within some seconds."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)
