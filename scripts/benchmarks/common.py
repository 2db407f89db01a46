"""What the benchmarks share: starting a real engine, measuring its processes, rows of figures."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil


@dataclasses.dataclass
class Row:
    """One figure: ``target`` is what we want to reach, as text; ``peer`` the same of somebody else, in this run."""

    part: str
    figure: str
    value: float
    unit: str
    target: str = ""
    ok: bool | None = None


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def free_port() -> int:
    """A TCP port on the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Engine:
    """A real ``flowork up`` on a folder of its own."""

    def __init__(self, data: Path, port: int) -> None:
        self.data = data
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start and wait for the first answer; seconds that this took."""
        began = time.perf_counter()
        command = [sys.executable, "-m", "appliance.cli", "up", "--host", "127.0.0.1", "--port", str(self.port)]
        log = (self.data.parent / "engine.log").open("ab")
        with log:
            self._process = subprocess.Popen([*command, "--data", str(self.data)], stdout=log, stderr=log)
        deadline = time.perf_counter() + 60
        while time.perf_counter() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get("/api/v1/health")[0] == 200:
                    return time.perf_counter() - began
            time.sleep(0.01)
        raise RuntimeError("the engine did not answer within a minute")

    def stop(self) -> None:
        """Stop cleanly."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)
            self._process = None

    def get(self, path: str) -> tuple[int, bytes]:
        """GET without identity."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            link.request("GET", path)
            answer = link.getresponse()
            return answer.status, answer.read()
        finally:
            link.close()

    def processes(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        assert self._process is not None
        top = psutil.Process(self._process.pid)
        return [top, *top.children(recursive=True)]

    def child(self, name: str) -> psutil.Process:
        """The process of one program (``kernel``, ``gateway``)."""
        for process in self.processes():
            if Path(f"/proc/{process.pid}/comm").read_text().strip() == f"flowork-{name}"[:15]:
                return process
        raise LookupError(name)

    def usage(self) -> Usage:
        """What all processes have used so far."""
        return Usage.of(self.processes())

    def flowork(self, *arguments: str) -> str:
        """Run the command line on this engine's folder."""
        command = [sys.executable, "-m", "appliance.cli", *arguments]
        environ = {**os.environ, "FLOWORK_DATA": str(self.data)}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout


@dataclasses.dataclass
class Usage:
    """CPU seconds, bytes sent to disk and proportional memory of some processes."""

    cpu: float
    written: int
    pss: int

    @classmethod
    def of(cls, processes: list[psutil.Process]) -> Usage:
        """Read off ``/proc``; processes that have ended meanwhile do not count."""
        total = cls(0.0, 0, 0)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                times = process.cpu_times()
                total.cpu += times.user + times.system
                total.written += process.io_counters().write_bytes
                total.pss += process.memory_full_info().pss
        return total

    def since(self, before: Usage) -> Usage:
        """The difference of CPU and bytes; memory as it is now."""
        return Usage(self.cpu - before.cpu, self.written - before.written, self.pss)


@contextlib.contextmanager
def engine(folder: Path | None = None, flows: dict[str, dict[str, Any]] | None = None) -> Iterator[Engine]:
    """A fresh engine with ``flows`` (by file name) deployed before it starts."""
    with contextlib.ExitStack() as held:
        root = folder or Path(held.enter_context(tempfile.TemporaryDirectory()))
        data = root / "FloworkData"
        made = Engine(data, free_port())
        data.mkdir(exist_ok=True)
        made.flowork("init")
        for name, body in (flows or {}).items():
            file = root / f"{name}.json"
            file.write_text(json.dumps(body))
            made.flowork("flow", "deploy", str(file))
        made.start()
        held.callback(made.stop)
        yield made
