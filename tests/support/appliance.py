"""A real ``flowork up`` on a folder and a port of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.support.broker import eventually, free_port


class Appliance:
    """Starts on ``with``; ``log`` is what it printed. Nothing of it is left afterwards."""

    def __init__(self, data: Path, *, environ: dict[str, str] | None = None, host: str = "127.0.0.1") -> None:
        self.data = data
        self._host = host
        self.port = free_port()
        self._environ = {**os.environ, **(environ or {})}
        self._file = data.parent / f"{data.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> str:
        return self._file.read_text(errors="replace")

    def start(self) -> None:
        """Start and wait until gateway and kernel answer."""
        began = len(self.log) if self._file.exists() else 0
        arguments = ["up", "--host", self._host, "--port", str(self.port), "--data", str(self.data)]
        with self._file.open("ab") as log:
            command = [sys.executable, "-m", "appliance.cli", *arguments]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environ)
        eventually(lambda: "panel: http" in self.log[began:], "the engine is up")

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """SIGTERM, as systemd does, or another signal; the exit code. Twice is fine."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(number)
        return process.wait(40)

    @property
    def pid(self) -> int:
        """The supervisor's pid."""
        assert self._process is not None
        return self._process.pid

    def family(self) -> list[int]:
        """The pids of all processes below the supervisor."""
        return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]

    def pids(self) -> dict[str, int]:
        """The pids of the supervisor's children by name."""
        found = {}
        for child in psutil.Process(self.pid).children():
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                found[Path(f"/proc/{child.pid}/comm").read_text().strip().removeprefix("flowork-")] = child.pid
        return found

    def kill(self, *names: str, wait: bool = True, number: int = signal.SIGKILL) -> None:
        """kill -9, and unless told otherwise wait until the supervisor has put others in their place."""
        before = eventually(lambda: (found := self.pids()) and set(names) <= set(found) and found, "processes to kill")
        for name in names:
            os.kill(before[name], number)
        if wait:
            eventually(
                lambda: all(self.pids().get(name, before[name]) != before[name] for name in names), "new processes"
            )

    def flowork(
        self, *arguments: str, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command line on this folder."""
        environ = {**self._environ, "FLOWORK_DATA": str(self.data)}
        command = [sys.executable, "-m", "appliance.cli", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=environ, check=check, timeout=60, input=stdin
        )

    def json(self, *arguments: str) -> Any:
        """The command line's ``--json`` answer."""
        return json.loads(self.flowork(*arguments, "--json").stdout)

    def http(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """One request: (status, parsed body, headers in lower case)."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = None if body is None else json.dumps(body).encode()
            sent = {"Content-Type": "application/json"} if data else {}
            link.request(method, path, data, {**sent, **(headers or {})})
            answer = link.getresponse()
            text = answer.read()
            found = {name.lower(): value for name, value in answer.getheaders()}
            parsed = json.loads(text) if "json" in found.get("content-type", "") else text
            return answer.status, parsed, found
        finally:
            link.close()

    def owner_key(self) -> str:
        """The private key that was printed."""
        # It is printed behind the address that `start` waits for.
        keys = eventually(lambda: re.findall(r"PRIVATE KEY (\S+)\n", self.log), "the owner key")
        assert len(keys) == 1, "the owner key must be printed exactly once"
        return str(keys[0])
